"""What a checkpoint will hold, copied into host memory while the training stands still."""

import hashlib
import io
import os
import pickle
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Self, cast

import torch
from torch import Tensor

from hpcjobs.run.files import PRIVATE_FILE
from hpcjobs.run.manifest import FileSeal
from hpcjobs.train.checkpoint import RNG_FILE, Progress
from hpcjobs.train.process import Process

Buffers = dict[tuple[str, int], Tensor]
"""Host tensors by file and number, used again by the next snapshot: fresh memory is slow."""


@dataclass(frozen=True, slots=True)
class FrozenState:
    """One file to be: a pickle without its tensors, and their copies."""

    outline: bytes
    tensors: list[Tensor]


Snapshot = dict[str, FrozenState]
"""This rank's files of a checkpoint by name."""


def take_snapshot(
    engine: Any,  # noqa: ANN401
    progress: Progress,
    process: Process,
    buffers: Buffers,
) -> Snapshot:
    """Copies what DeepSpeed would write now; all ranks call it together.

    DeepSpeed saves through a checkpoint engine that can be exchanged. One that copies takes its
    place for a moment, so the files are DeepSpeed's own at every stage, and load as such. Frozen
    weights are left out: they come from the model directory or the seed.
    """
    recorder = _Recorder(process.device.type == "cuda", buffers)
    writing, engine.checkpoint_engine = engine.checkpoint_engine, recorder
    engine._copy_recovery_script = _no_script  # noqa: SLF001 - the only thing that it writes itself
    try:
        engine.save_checkpoint(
            ".",
            tag="snapshot",
            client_state={"progress": asdict(progress)},
            save_latest=False,
            exclude_frozen_parameters=True,
        )
    finally:
        engine.checkpoint_engine = writing
    recorder.save(rng_state(process), RNG_FILE.format(rank=process.rank))
    if process.device.type == "cuda":
        torch.cuda.synchronize()
    return recorder.files


def write_snapshot(snapshot: Snapshot, directory: Path) -> dict[str, FileSeal]:
    """Writes the files and syncs them; returns their sizes and digests.

    Raises:
        OSError: the disk is full, read-only or broken.
    """
    return {name: _write(state, directory / name) for name, state in snapshot.items()}


def rng_state(process: Process) -> dict[str, Any]:
    """The random generators of this rank."""
    version, internal, gauss = random.getstate()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": [version, list(internal), gauss],
    }
    if process.device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _write(state: FrozenState, path: Path) -> FileSeal:
    with _SealingFile(path) as file:
        try:
            torch.save(_Whole(state).load(), cast("IO[bytes]", file))
        except RuntimeError as error:
            raise file.failure or error from error
        return file.seal()


class _Recorder:
    """A checkpoint engine of DeepSpeed that keeps what it is given."""

    def __init__(self, pinned: bool, buffers: Buffers) -> None:
        self.files: Snapshot = {}
        self._pinned = pinned
        self._buffers = buffers

    def save(self, state_dict: Any, path: str) -> None:  # noqa: ANN401
        name = Path(path).name
        tensors: list[Tensor] = []
        outline = io.BytesIO()
        _Outline(outline, tensors).dump(state_dict)
        copies = [self._copy(tensor, (name, i)) for i, tensor in enumerate(tensors)]
        self.files[name] = FrozenState(outline.getvalue(), copies)

    def _copy(self, tensor: Tensor, key: tuple[str, int]) -> Tensor:
        """The copy of a card's tensor is complete only after a synchronisation."""
        old = self._buffers.get(key)
        if old is None or (old.shape, old.dtype) != (tensor.shape, tensor.dtype):
            old = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=self._pinned)
            self._buffers[key] = old
        old.copy_(tensor.detach(), non_blocking=True)
        return old

    def makedirs(self, path: str, exist_ok: bool = False) -> None: ...

    def create(self, info: object) -> None: ...

    def commit(self, info: object) -> bool:  # noqa: ARG002 - DeepSpeed's interface
        return True

    def is_decoupled(self) -> bool:
        return False

    def is_data_parallel_writer(self, dp_rank: int) -> bool:
        return dp_rank == 0

    def preserves_storage_sharing(self) -> bool:
        return True


class _Outline(pickle.Pickler):
    """Pickles everything but tensors: what torch.save can pickle, this can."""

    def __init__(self, file: io.BytesIO, tensors: list[Tensor]) -> None:
        super().__init__(file)
        self._tensors = tensors
        self._numbers: dict[tuple[Any, ...], int] = {}

    def persistent_id(self, value: object) -> int | None:
        if not isinstance(value, Tensor):
            return None
        place = (value.data_ptr(), value.shape, value.stride(), value.dtype, value.device)
        if value.numel() == 0 or place not in self._numbers:  # tied weights are written once
            self._numbers[place] = len(self._tensors)
            self._tensors.append(value)
        return self._numbers[place]


class _Whole(pickle.Unpickler):
    """Puts the copies into the outline; reads what this process has just pickled itself."""

    def __init__(self, state: FrozenState) -> None:
        super().__init__(io.BytesIO(state.outline))
        self._tensors = state.tensors

    def persistent_load(self, number: int) -> Tensor:
        return self._tensors[number]


class _SealingFile:
    """A new private file that digests what is written, and remembers what went wrong.

    torch hides an error of the disk behind its own words, and without the number of the error.
    """

    def __init__(self, path: Path) -> None:
        self.failure: OSError | None = None
        self._digest = hashlib.sha256()
        self._size_bytes = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        self._file = os.fdopen(os.open(path, flags, PRIVATE_FILE), "wb", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, content: bytes) -> int:
        view = memoryview(content).cast("B")
        self._digest.update(view)
        self._guarded(lambda: self._write_all(view))
        self._size_bytes += len(view)
        return len(view)

    def flush(self) -> None:
        """Nothing is held back."""

    def seal(self) -> FileSeal:
        """Syncs to disk; size and digest are of what was meant to be written."""
        self._guarded(lambda: os.fsync(self._file.fileno()))
        return FileSeal(size_bytes=self._size_bytes, sha256=self._digest.hexdigest())

    def _write_all(self, view: memoryview) -> None:
        while view:
            view = view[self._file.write(view) :]

    def _guarded(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            self.failure = self.failure or error
            raise


def _no_script(_directory: str) -> None:
    """In place of DeepSpeed's copies of its conversion scripts beside the checkpoints."""
