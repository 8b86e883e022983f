"""What the planner says of an experiment as it stands, for the preview of a submission."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpcjobs.run.errors import HpcjobsError
from hpcjobs.run.experiment import Experiment
from planner.errors import PlannerError

if TYPE_CHECKING:
    from planner.plan import Plan
    from planner.prediction import Prediction

_GIB = 1 << 30
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Planned:
    """Two phrases for people."""

    memory: str
    run: str
    """Hours, GPU-hours and cost."""


def planned_figures(experiment: Experiment, plan: "Plan | None") -> Planned:
    """Asks the planner; whatever it cannot answer is unknown and stops nothing."""
    if experiment.parallel.device == "cpu":
        return Planned("not planned: a run on the CPU", UNKNOWN)
    try:
        found = _prediction(experiment, plan)
    # A defect of the planner must not keep anybody from submitting a run of known size.
    except (PlannerError, HpcjobsError, ArithmeticError, LookupError, TypeError, ValueError) as e:
        reason = " ".join(str(e).split()).partition(";")[0]
        return Planned(f"{UNKNOWN}: {reason}", UNKNOWN)
    return Planned(_memory(found, experiment), _run(found))


def _prediction(experiment: Experiment, plan: "Plan | None") -> "tuple[Prediction, bool]":
    """The figures, and whether the card is known; without one only memory means something."""
    if plan is not None and plan.chosen is not None:
        return plan.chosen.prediction, True
    from hpcjobs.login.plan_conditions import as_configured

    return as_configured(experiment)


def _memory(found: "tuple[Prediction, bool]", experiment: Experiment) -> str:
    prediction, card_is_known = found
    memory = prediction.memory
    p50, p95 = float(memory.process_p50_bytes) / _GIB, float(memory.process_p95_bytes) / _GIB
    text = f"{p50:.1f} GiB at p50, {p95:.1f} GiB at p95, most of it {prediction.binding}"
    if not card_is_known:
        return text
    return f"{text}; {'fits' if prediction.fits else 'DOES NOT FIT'} {_card(experiment)}"


def _card(experiment: Experiment) -> str:
    name = experiment.cluster.gpu_type
    return f"a {name}" if name else "the card"


def _run(found: "tuple[Prediction, bool]") -> str:
    prediction, card_is_known = found
    if not card_is_known:
        return f"{UNKNOWN}: write cluster.gpu_type"
    hours, cost = prediction.hours, prediction.cost
    if hours is None or cost is None:
        return f"{UNKNOWN}: the number of samples is not known; write planner.samples"
    text = (
        f"{float(hours.hours_p50):.1f} h at p50, {float(hours.hours_p95):.1f} h at p95; "
        f"{float(cost.gpu_hours_p50):.1f} to {float(cost.gpu_hours_p95):.1f} GPU-hours"
    )
    if math.isnan(float(cost.cost_p50)):
        return text
    return f"{text}; {float(cost.cost_p50):.0f} to {float(cost.cost_p95):.0f} {cost.currency}"
