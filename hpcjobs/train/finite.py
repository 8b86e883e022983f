"""A training whose figures are no numbers any more stops, and its state is not saved."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from hpcjobs.run.errors import TrainingFailedError

_REMEDY = (
    "the training has diverged: lower train.lr or train.max_grad_norm, raise train.warmup_ratio, "
    "or look for odd samples, and start anew with another run_dir"
)


def refuse_non_finite(what: str, value: float | None, step: int) -> None:
    """Stops at a figure that is infinite or no number; None is not known and passes.

    Raises:
        TrainingFailedError: says which figure of which step, and what to change.
    """
    if value is not None and not math.isfinite(value):
        raise TrainingFailedError(f"the {what} of step {step} is {value}; {_REMEDY}")


def refuse_broken_weights(parameters: Iterable[Tensor], step: int) -> None:
    """Stops before trained weights that are no numbers get into a checkpoint.

    Raises:
        TrainingFailedError: names the step.
    """
    # At ZeRO-3 each rank looks at its own part of a parameter, which is empty in between.
    parts = (getattr(parameter, "ds_tensor", parameter) for parameter in parameters)
    if not all(bool(torch.isfinite(part).all()) for part in parts):
        raise TrainingFailedError(
            f"the weights of step {step} are not all finite, and were not saved; {_REMEDY}"
        )
