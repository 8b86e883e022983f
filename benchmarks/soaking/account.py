"""Where the time of a disturbed run went, and what the formula had promised; pure."""

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.soaking.plan import ABRUPT

TARGET_OVERHEAD = 0.45
"""Below the half that the figure allows, since gaps and restarts vary."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Measured before; times in seconds."""

    step_s: float
    """A step without a save."""
    save_share: float
    """What saving adds to the training, as a share of it: C / tau."""
    interval_s: float
    """Training between two saves: tau."""
    down_s: dict[str, float]
    """By class of kill: from the kill to the first new step, without waiting for an allocation."""

    def loss_s(self, kind: str) -> float:
        """What a kill of a class costs: R, and half an interval where there is no warning."""
        return self.down_s[kind] + (self.interval_s / 2 if kind in ABRUPT else 0.0)


def mean_gap_s(costs: Costs, shares: Mapping[str, float], target: float) -> float:
    """Training between two kills at which the expected overhead h is the target.

    h = C/tau + sum over the classes of lambda (tau/2 + R)   (docs/reliability.md, A2)

    >>> costs = Costs(0.1, 0.02, 2.0, {"crash in place": 9.0})
    >>> mean_gap_s(costs, {"crash in place": 1.0}, 0.42)
    25.0
    """
    loss_s = sum(share * costs.loss_s(kind) for kind, share in shares.items() if share)
    return round(loss_s / (target - costs.save_share), 6)


def expected_overhead(costs: Costs, counts: Mapping[str, int], useful_s: float) -> float:
    """The formula's h for the kills that there were."""
    lost_s = sum(count * costs.loss_s(kind) for kind, count in counts.items())
    return costs.save_share + lost_s / useful_s


def pure_step_s(lines: Sequence[Mapping[str, Any]], every: int) -> float:
    """Mean seconds of a step that is neither an attempt's first nor follows closely on a save.

    Raises:
        ValueError: there is no such step.
    """
    first = first_steps(lines)
    plain = [
        float(line["step_s"])
        for line in lines
        if line["step"] > first[line["attempt"]] + 1
        and every // 2 <= line["step"] % every < every - 1
    ]
    if not plain:
        raise ValueError("no undisturbed step was measured")
    return _trimmed_mean(plain)


def saving_share(lines: Sequence[Mapping[str, Any]], every: int) -> float:
    """What saves add to the training: all steps against those that are not next to a save."""
    first = first_steps(lines)
    steps = [float(line["step_s"]) for line in lines if line["step"] > first[line["attempt"]] + 1]
    return max(0.0, statistics.fmean(steps) / pure_step_s(lines, every) - 1.0)


def first_steps(lines: Iterable[Mapping[str, Any]]) -> dict[int, int]:
    """The first step of every attempt."""
    first: dict[int, int] = {}
    for line in lines:
        first.setdefault(line["attempt"], line["step"])
    return first


def repeated_steps(lines: Iterable[Mapping[str, Any]]) -> int:
    """Steps that had to be trained again."""
    counts = Counter(line["step"] for line in lines)
    return sum(counts.values()) - len(counts)


def _trimmed_mean(values: Sequence[float]) -> float:
    """Without the slowest hundredth: what else the machine does is no part of the training."""
    kept = sorted(values)[: max(1, len(values) - len(values) // 100)]
    return statistics.fmean(kept)
