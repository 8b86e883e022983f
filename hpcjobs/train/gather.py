"""Parameters under ZeRO-3: divided as soon as they are filled, whole where they are needed."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


def whole_parameters(
    module: nn.Module, wanted: Callable[[str], bool], *, keep: bool
) -> Iterator[tuple[str, Tensor]]:
    """Yields parameters by name, one after the other, each gathered from all ranks where needed.

    All ranks must call it, and go through to its end. What it yields is a copy in host memory
    where the parameter was gathered, and the parameter's own data elsewhere.

    Args:
        module: the module, divided by ZeRO-3 or not.
        wanted: says of a name whether it is asked for.
        keep: whether this rank wants the values; the others only take part.
    """
    for name, parameter in module.named_parameters():
        if not wanted(name):
            continue
        if not hasattr(parameter, "ds_id"):
            if keep:
                yield name, parameter.detach()
            continue
        whole = _gathered(parameter, keep)
        if whole is not None:
            yield name, whole


def _gathered(parameter: nn.Parameter, keep: bool) -> Tensor | None:
    with _whole(parameter):
        return parameter.detach().to("cpu", copy=True) if keep else None


@contextlib.contextmanager
def _whole(parameter: nn.Parameter, writer: int | None = None) -> Iterator[None]:
    """The parameter is whole inside; what the writing rank has changed holds for all ranks."""
    if not hasattr(parameter, "ds_id"):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=writer):
        yield


def fill_whole(parameter: nn.Parameter, value: Tensor) -> None:
    """Overwrites a parameter, divided or not; rank 0's value counts where it is divided."""
    with torch.no_grad(), _whole(parameter, writer=0):
        parameter.copy_(value)


class Divider:
    """Divides parameters among the ranks as a checkpoint is read, so that none holds the model.

    Rank 0's values count: DeepSpeed broadcasts each parameter before it keeps every rank's part.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        """Remembers the DeepSpeed configuration, which says where the parts lie."""
        self._config = config
        self._first: Any = None

    def __call__(self, parameter: nn.Parameter) -> None:
        """Divides one parameter; collective."""
        import deepspeed

        if self._first is None:
            module = nn.ParameterList([parameter])
            deepspeed.zero.Init(module=module, config_dict_or_path=self._config)
            self._first = parameter
        elif not hasattr(parameter, "ds_id"):
            self._first.convert_to_zero_parameters(param_list=[parameter])
