"""How often to save: the interval that loses least, from what saves cost and how often runs end."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpcjobs.run.experiment import Experiment

LONGEST_S = 1800.0
"""The most work that a loss without warning may cost."""
SHORTEST_S = 10.0
FIRST_S = 300.0
"""Before any save was measured: soon, so that one is."""
PREEMPTIONS_PER_DAY = 2.0
"""Where ``planner.preemptions_per_day`` is not set, as the planner takes it."""
RECENT = 3
_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Cost:
    """What one save took."""

    stall_s: float
    """The training stood still for so long."""
    save_s: float
    """Until the commit."""


def daly_interval_s(stall_s: float, mean_time_s: float) -> float:
    """Seconds between saves that lose least (Daly 2006, FGCS 22-3, equation 37).

    ``sqrt(2CM) (1 + sqrt(C/2M)/3 + (C/2M)/9) - C`` while C < 2M, else M; Young (1974, CACM 17-9)
    is its first term. The planner has the same formula for arrays (``planner.interruptions``).

    Args:
        stall_s: C, how long the training stands still for a save.
        mean_time_s: M, mean time between losses without a warning.

    >>> round(daly_interval_s(60.0, 6 * 3600.0))
    1570
    """
    share = stall_s / (2.0 * mean_time_s)
    if share >= 1.0:
        return mean_time_s
    young = math.sqrt(2.0 * stall_s * mean_time_s)
    return young * (1.0 + math.sqrt(share) / 3.0 + share / 9.0) - stall_s


def auto_interval_s(recent: Sequence[Cost], mean_time_s: float) -> float:
    """The interval for ``train.checkpoint.every_s=auto``.

    Never above half an hour, so that a wrong rate costs little; never below ten seconds or what
    a save takes, since one is in flight at a time.

    Args:
        recent: the last saves; empty before the first.
        mean_time_s: mean time between losses without a warning; may be infinite.

    >>> round(auto_interval_s([Cost(stall_s=2.0, save_s=20.0)], 6 * 3600.0))
    293
    >>> auto_interval_s([Cost(stall_s=2.0, save_s=20.0)], 77 * 86_400.0)
    1800.0
    """
    if not recent:
        return FIRST_S
    stall_s = sum(cost.stall_s for cost in recent) / len(recent)
    best_s = LONGEST_S if math.isinf(mean_time_s) else daly_interval_s(stall_s, mean_time_s)
    return max(SHORTEST_S, *(cost.save_s for cost in recent), min(best_s, LONGEST_S))


def mean_time_s(experiment: Experiment, needed_grace_s: float) -> float:
    """Mean time between losses without a warning; infinite where none is expected.

    Nodes fail, and preemptions may come too soon for a last save; the rates add.

    Args:
        experiment: the run.
        needed_grace_s: seconds from an announcement to a committed checkpoint.
    """
    cluster, preempted = experiment.cluster, experiment.planner.preemptions_per_day
    failed = experiment.parallel.nodes * cluster.failures_per_1000_node_days / 1000.0
    abrupt = PREEMPTIONS_PER_DAY if preempted is None else preempted
    per_day = failed + (abrupt if needed_grace_s > cluster.signal_lead_s else 0.0)
    return _DAY_S / per_day if per_day else math.inf


def recent_costs(events: Iterable[Mapping[str, Any]]) -> list[Cost]:
    """What the run's last saves took, so that a new attempt need not learn it again."""
    costs = [
        Cost(float(event["stall_s"]), float(event["save_s"]))
        for event in events
        if event.get("kind") == "checkpoint" and "stall_s" in event
    ]
    return costs[-RECENT:]
