"""Whether a run can save in the time between the announcement of its end and the end."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpcjobs.node.step import MARGIN_S
from hpcjobs.run.errors import ConfigError
from hpcjobs.run.experiment import Experiment
from hpcjobs.run.files import read_lines
from hpcjobs.run.layout import RunDir

if TYPE_CHECKING:
    from planner.plan import Plan

_RECENT = 200
_SHARE = 0.95
_GIGA = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The longest that a run takes to the next step boundary, and to commit a checkpoint there."""

    step_s: float
    save_s: float
    source: str

    @property
    def needed_s(self) -> int:
        """Seconds of lead time: one step, the save, and the margin for what follows it.

        >>> Pace(step_s=20.5, save_s=60.0, source="measured").needed_s
        91
        """
        return math.ceil(self.step_s + self.save_s + MARGIN_S)


def refuse_short_lead(experiment: Experiment, run: RunDir, plan: "Plan | None") -> None:
    """Refuses a run whose time limit is announced too late for a last checkpoint.

    What earlier attempts of the run have measured goes before what the planner predicts; where
    neither is there, nothing is known and nothing refused.

    Raises:
        ConfigError: names the seconds, and the word that changes them.
    """
    pace = measured_pace(read_lines(run.metrics), read_lines(run.events)) or planned_pace(plan)
    lead_s = experiment.cluster.signal_lead_s
    if pace is None or lead_s >= pace.needed_s:
        return
    raise ConfigError(
        f"cluster.signal_lead_s is {lead_s}, but a step of {pace.step_s:.0f} s, a save of "
        f"{pace.save_s:.0f} s ({pace.source}) and {MARGIN_S:.0f} s to spare take "
        f"{pace.needed_s} s: write cluster.signal_lead_s={pace.needed_s}"
    )


def measured_pace(metrics: Iterable[Any], events: Iterable[Any]) -> Pace | None:
    """The pace of the run's newest steps and saves; None before there were both."""
    steps = [line["step_s"] for line in metrics if line.get("kind") == "train"][-_RECENT:]
    saves = [event["save_s"] for event in events if event.get("kind") == "checkpoint"][-_RECENT:]
    if not steps or not saves:
        return None
    return Pace(step_s=_high(steps), save_s=max(saves), source="measured")


def planned_pace(plan: "Plan | None") -> Pace | None:
    """The pace that the planner predicts for what it chose; None without a plan."""
    if plan is None or plan.chosen is None:
        return None
    from planner.time.hours import Reliability

    prediction = plan.chosen.prediction
    disk_bytes_per_s = Reliability().disk_gb_per_s * _GIGA
    save_s = float(prediction.memory.checkpoint_bytes) / disk_bytes_per_s
    return Pace(step_s=float(prediction.step.p95_s), save_s=save_s, source="planned")


def _high(values: list[float]) -> float:
    """The 95th percentile: a single step that waited for a file says nothing of the next."""
    return sorted(values)[math.ceil(_SHARE * len(values)) - 1]
