"""Counts the bytes of live tensor storages, and says who made those that live at the peak."""

import itertools
import re
import sys
import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

# torch's CUDA allocator hands out multiples of this (c10/cuda/CUDACachingAllocator.cpp,
# kMinBlockSize).
BLOCK_BYTES = 512

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")


@dataclass(frozen=True, slots=True)
class Maker:
    """Who made a storage."""

    phase: str
    where: str
    """A module's name (numbers as ``*``), an autograd node, or a source file and function."""
    op: str


@dataclass(slots=True)
class _Change:
    """A storage that came (bytes above 0) or went."""

    bytes: int
    maker: Maker


@dataclass
class ModuleNames:
    """The module whose forward is running, also while a checkpointed layer is computed again."""

    names: dict[int, str]
    running: list[str] = field(default_factory=list)
    handles: list[Any] = field(default_factory=list)

    def watch(self) -> None:
        """Registers hooks on all modules."""
        self.handles = [
            register_module_forward_pre_hook(self._enter),
            # always_call: recomputation ends a forward early, by an exception.
            register_module_forward_hook(self._leave, always_call=True),
        ]

    def stop(self) -> None:
        """Removes the hooks."""
        for handle in self.handles:
            handle.remove()

    def _enter(self, module: nn.Module, _inputs: Any) -> None:  # noqa: ANN401
        self.running.append(self.names.get(id(module), type(module).__name__))

    def _leave(self, _module: nn.Module, _inputs: Any, _outputs: Any) -> None:  # noqa: ANN401
        if self.running:
            self.running.pop()


class LiveTensors(TorchDispatchMode):
    """Follows every storage from the operator that returns it until Python lets it go.

    What an operator allocates and frees inside itself is not seen, nor are CUDA workspaces.

    >>> with LiveTensors() as live:
    ...     held = torch.ones(1024)
    ...     (held * 2).sum().item()
    2048.0
    >>> live.current_bytes, live.peak_bytes
    (4096, 8704)
    """

    def __init__(self, base: Iterable[Tensor] = (), modules: ModuleNames | None = None) -> None:
        """Starts with the tensors in ``base``, which were made before."""
        super().__init__()
        self.phase = "model"
        self.current_bytes = self.peak_bytes = self.highest_bytes = 0
        self.ops = 0
        self._peak_at = 0
        self._modules = modules
        self._known = WeakIdKeyDictionary()
        self._changes: list[_Change] = []
        for tensor in base:
            self._add(tensor, "parameter")

    def begin(self, phase: str) -> None:
        """Names the phase, and forgets the peak of the one before."""
        self.phase = phase
        self.peak_bytes = self.current_bytes

    def forget_highest(self) -> None:
        """Looks for the highest peak from here on only."""
        self.highest_bytes = 0

    def largest_at_peak(self, count: int) -> list[dict[str, Any]]:
        """The tensors that lived at the highest peak, by maker, the largest groups first."""
        live_bytes: Counter[Maker] = Counter()
        live_count: Counter[Maker] = Counter()
        for change in itertools.islice(self._changes, self._peak_at):
            live_bytes[change.maker] += change.bytes
            live_count[change.maker] += 1 if change.bytes > 0 else -1
        return [
            {
                "bytes": size,
                "tensors": live_count[maker],
                "phase": maker.phase,
                "where": maker.where,
                "op": maker.op,
            }
            for maker, size in live_bytes.most_common(count)
            if size
        ]

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - torch's protocol
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Runs the operator and looks at what it returns."""
        result = func(*args, **(kwargs or {}))
        self.ops += 1
        name = func._overloadpacket.__name__  # noqa: SLF001 - the operator's name has no getter
        tree_map_only(Tensor, lambda tensor: self._add(tensor, name), result)
        return result

    def _add(self, tensor: Tensor, op: str) -> None:
        # Models are laid out on meta before they get storages; those take nothing.
        if tensor.device.type == "meta":
            return
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        size = -(-storage.nbytes() // BLOCK_BYTES) * BLOCK_BYTES
        maker = Maker(self.phase, self._where(), op)
        self._known[storage] = weakref.ref(storage, lambda _: self._change(-size, maker))
        self._change(size, maker)

    def _change(self, size: int, maker: Maker) -> None:
        self._changes.append(_Change(size, maker))
        self.current_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.current_bytes)
        if self.current_bytes > self.highest_bytes:
            self.highest_bytes = self.current_bytes
            self._peak_at = len(self._changes)

    def _where(self) -> str:
        if self._modules and self._modules.running:
            return _NUMBER.sub("*", self._modules.running[-1]) or "model"
        node = torch._C._current_autograd_node()  # noqa: SLF001
        return node.name() if node is not None else _source()


def _source() -> str:
    """The nearest line of the stack that is not torch's own machinery: ``stage3.py:step``."""
    frame: FrameType | None = sys._getframe(3)  # noqa: SLF001
    while frame is not None and _is_machinery(frame.f_code.co_filename):
        frame = frame.f_back
    if frame is None:
        return "torch"
    return f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_code.co_name}"


def _is_machinery(path: str) -> bool:
    is_torch = "/torch/" in path and "/torch/optim/" not in path
    return is_torch or path.endswith("live_tensors.py")
