"""Learning rate and length of a training, as pure functions."""

import math

from hpcjobs.run.errors import ConfigError
from hpcjobs.run.experiment import Train


def total_steps(train: Train, steps_per_epoch: int) -> int:
    """Optimizer steps of the whole training.

    Raises:
        ConfigError: the epochs come to less than one step.

    >>> from hpcjobs.run.experiment import Train
    >>> total_steps(Train(global_batch=8, lr=1.0, epochs=1.5), steps_per_epoch=100)
    150
    """
    if train.steps is not None:
        return train.steps
    steps = math.floor((train.epochs or 0) * steps_per_epoch)
    if steps < 1:
        raise ConfigError(f"train.epochs={train.epochs} of {steps_per_epoch} steps is no step")
    return steps


def lr_factor(step: int, steps: int, warmup_ratio: float, schedule: str) -> float:
    """Factor on the learning rate at a step: linear warm-up, then cosine to zero (or constant).

    The warm-up takes ``ceil(warmup_ratio x steps)`` steps, as in transformers'
    ``get_cosine_schedule_with_warmup``.

    >>> [round(lr_factor(s, 10, 0.2, "cosine"), 3) for s in (0, 1, 2, 6, 10)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    warmup = math.ceil(warmup_ratio * steps)
    if step < warmup:
        return step / warmup
    if schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(1, steps - warmup)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
