"""Which checkpoints lie nearest to the best measurements of the held-out loss."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcjobs.run.files import read_lines

_MOMENTS = ("during", "after")


@dataclass(frozen=True, slots=True)
class Measurement:
    """A held-out loss of the training, with the pictures where they belong."""

    step: int
    loss: float


def read_measurements(metrics: Path) -> list[Measurement]:
    """The measurements of a run by step; of a step that was trained again, the last."""
    return measurements(read_lines(metrics))


def measurements(lines: Iterable[Mapping[str, Any]]) -> list[Measurement]:
    """Picks the measurements out of a run's metrics.

    >>> line = {"kind": "heldout", "moment": "during", "shuffled_pictures": False}
    >>> measurements([{**line, "step": 4, "loss": 2.0}, {**line, "step": 4, "loss": 1.5}])
    [Measurement(step=4, loss=1.5)]
    """
    losses = {
        int(line["step"]): float(line["loss"])
        for line in lines
        if line.get("kind") == "heldout"
        and line.get("moment") in _MOMENTS
        and not line.get("shuffled_pictures")
    }
    return [Measurement(step, losses[step]) for step in sorted(losses)]


def best_of(found: Sequence[Measurement], count: int) -> list[Measurement]:
    """The ``count`` lowest losses, lowest first; of equal ones the earlier."""
    return sorted(found, key=lambda one: (one.loss, one.step))[:count]


def nearest_step(committed: Sequence[int], step: int) -> int | None:
    """The committed step nearest to ``step``, of two equally near ones the later; None of none.

    >>> nearest_step([10, 20, 30], 24), nearest_step([10, 20], 15), nearest_step([], 1)
    (20, 20, None)
    """
    return min(committed, key=lambda other: (abs(other - step), -other), default=None)


def steps_of_best(committed: Sequence[int], found: Sequence[Measurement], count: int) -> list[int]:
    """The checkpoints to keep for the ``count`` best measurements, the best one's first.

    >>> found = [Measurement(10, 3.0), Measurement(20, 1.0), Measurement(30, 2.0)]
    >>> steps_of_best([11, 21, 22, 29, 40], found, 2)
    [21, 29]
    """
    near = (nearest_step(committed, one.step) for one in best_of(found, count))
    return list(dict.fromkeys(step for step in near if step is not None))
