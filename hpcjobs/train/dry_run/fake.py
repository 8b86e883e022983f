"""Lets the unmodified DeepSpeed engine run on tensors that have shapes and no memory.

torch's FakeTensorMode cannot read values, swap a parameter's storage or count the true elements
of a mask. What is replaced for that, and nothing else, stands here.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import fake_impls
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional


def materialise(model: nn.Module, make: Callable[[Tensor], Tensor]) -> None:
    """Replaces parameters and buffers on the meta device, tied ones by the same tensor.

    Args:
        model: built under ``torch.device("meta")``, changed in place.
        make: gives the tensor that stands in the place of a meta tensor.
    """
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for slots in (module._parameters, module._buffers):  # noqa: SLF001
            for name, tensor in slots.items():
                if tensor is None or tensor.device.type != "meta":
                    continue
                if id(tensor) not in made:
                    made[id(tensor)] = _like(tensor, make(tensor))
                slots[name] = made[id(tensor)]  # type: ignore[assignment]


def empty_like(tensor: Tensor) -> Tensor:
    """An empty tensor on the CPU, fake inside a FakeTensorMode."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")


@contextmanager
def fake_tensors(labelled: int) -> Iterator[None]:
    """Everything that is created inside is fake, and reading a value gives a constant.

    Fractions read as 1, whole numbers as 0, truths as true: losses and norms come out finite,
    and steps are taken.

    Args:
        labelled: true elements of every mask that indexes a tensor; shapes depend on them.
    """
    with ExitStack() as stack:
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(_operators(labelled))
        stack.enter_context(replaced(nn.Module, "_apply", _apply))
        stack.enter_context(without_peers())
        for owner, name, substitute in _transformers():
            stack.enter_context(replaced(owner, name, substitute))
        yield


@contextmanager
def without_peers() -> Iterator[None]:
    """Lets DeepSpeed go on where other ranks' answers and values are missing.

    Real tensors need it too where the process group is a fake one.
    """
    with ExitStack() as stack:
        for owner, name, substitute in _deepspeed():
            stack.enter_context(replaced(owner, name, substitute))
        yield


@contextmanager
def dropout_as_on_cuda() -> Iterator[None]:
    """Dropout keeps a mask of one byte an element, as it does on a card.

    On the CPU torch multiplies by noise of the input's own type, and keeps that
    (aten/src/ATen/native/Dropout.cpp, ``is_fused_kernel_acceptable``).
    """

    def dropout(
        input: Tensor,  # noqa: A002 - torch's own name
        p: float = 0.5,
        training: bool = True,
        inplace: bool = False,
    ) -> Tensor:
        del inplace
        return torch.native_dropout(input, p, training)[0] if training and p > 0 else input

    with replaced(functional, "dropout", dropout):
        yield


@contextmanager
def replaced(owner: Any, name: str, substitute: Any) -> Iterator[None]:  # noqa: ANN401
    """Puts something else in the place of a module's or class's attribute for a while."""
    original = owner.__dict__[name]
    setattr(owner, name, substitute)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _like(meta: Tensor, tensor: Tensor) -> Tensor:
    if isinstance(meta, nn.Parameter):
        return nn.Parameter(tensor, requires_grad=meta.requires_grad)
    return tensor


@contextmanager
def _operators(labelled: int) -> Iterator[None]:
    """Operators whose result depends on values."""
    aten, known = torch.ops.aten, fake_impls.op_implementations_dict
    substitutes = {
        aten._local_scalar_dense.default: _constant,  # noqa: SLF001 - an operator's name
        aten.nonzero.default: lambda _mode, _func, mask: _nonzero(mask, labelled),
        aten.index.Tensor: _with_numbers(known.get(aten.index.Tensor), labelled),
    }
    before = {operator: known.get(operator) for operator in substitutes}
    known.update(substitutes)
    try:
        yield
    finally:
        known.update({operator: impl for operator, impl in before.items() if impl})


def _constant(_mode: Any, _func: Any, tensor: Tensor, *_: Any, **__: Any) -> float:  # noqa: ANN401
    if tensor.dtype == torch.bool:
        return True
    return 1.0 if tensor.dtype.is_floating_point else 0


def _nonzero(mask: Tensor, labelled: int) -> Tensor:
    return torch.empty(labelled, mask.dim(), dtype=torch.long, device=mask.device)


def _with_numbers(known: Callable[..., Any] | None, labelled: int) -> Callable[..., Any]:
    """Indexing by a mask becomes indexing by positions, of which there are ``labelled``."""

    def index(mode: Any, func: Any, tensor: Tensor, indices: Any) -> Any:  # noqa: ANN401
        numbers: list[Tensor | None] = []
        for part in indices:
            if part is not None and part.dtype == torch.bool:
                numbers += _nonzero(part, labelled).unbind(1)
            else:
                numbers.append(part)
        if len(numbers) != len(indices):
            return func(tensor, numbers)
        return known(mode, func, tensor, indices) if known else NotImplemented

    return index


def _apply(self: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """``nn.Module._apply`` by ``.data``: a fake parameter cannot be swapped."""
    del recurse
    for module in self.modules():
        for parameter in module._parameters.values():  # noqa: SLF001
            if parameter is not None:
                moved = fn(parameter)
                if (moved.dtype, moved.device) != (parameter.dtype, parameter.device):
                    parameter.data = moved
        for name, buffer in module._buffers.items():  # noqa: SLF001
            if buffer is not None:
                module._buffers[name] = fn(buffer)  # noqa: SLF001
    return self


def _deepspeed() -> Iterator[tuple[Any, str, Any]]:
    """No rank is there to disagree, and no gradient is infinite."""
    from deepspeed.runtime import utils
    from deepspeed.runtime.fp16 import unfused_optimizer
    from deepspeed.runtime.zero import (
        partition_parameters,
        partitioned_param_coordinator,
        stage3,
        stage_1_and_2,
    )

    def finite(gradient: Tensor, _index: int) -> bool:
        utils.has_inf_or_nan(gradient)  # for the memory that looking takes
        return False

    for module in (partition_parameters, partitioned_param_coordinator, stage3):
        yield module, "assert_ints_same_as_other_ranks", lambda _: None
    for module in (stage3, stage_1_and_2, unfused_optimizer, utils):
        yield module, "is_invalid_grad_norm", lambda _: False
    yield utils.CheckOverflow, "_has_inf_or_nan", staticmethod(finite)


def _transformers() -> Iterator[tuple[Any, str, Any]]:
    """A mask of ones is left out, as on a card; for fake tensors transformers would build it.

    It takes the square of the length, a byte each.
    """
    from transformers import masking_utils

    yield masking_utils, "is_tracing", lambda *_: False
