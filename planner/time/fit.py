"""Fits the constants of the time model to measured steps."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from planner.architecture import Architecture
from planner.cards import Card
from planner.layout import Layout
from planner.time.constants import Constants
from planner.time.step import step_time_of
from planner.workload import Workload

START = Constants(
    matmul_share=0.85,
    hopper_share=0.70,
    traffic=0.70,
    launch_us=20.0,
    micro_ms=20.0,
    module_us=250.0,
    dequant_nf4_bytes=10.0,
    dequant_gptq_bytes=20.0,
)
"""Where a fit starts, and what it is drawn to where rows say little: round numbers, set by hand."""

FITTED = (
    "matmul_share",
    "hopper_share",
    "traffic",
    "launch_us",
    "micro_ms",
    "module_us",
    "dequant_nf4_bytes",
    "dequant_gptq_bytes",
)
# Strength of the pull to START, chosen so that constants stay put when a family is left out; steps
# of the search in natural logarithms; where an error stops to count more, so that one odd row does
# not decide.
_RIDGE, _STEPS, _CLIP = 1.0, (0.3, 0.15, 0.07, 0.03), 0.7


@dataclass(frozen=True, slots=True)
class Observation:
    """One measured step."""

    group: str
    """Groups count alike, however many rows they have: source and method."""
    architecture: Architecture
    workload: Workload
    layout: Layout
    card: Card
    step_s: float


def fit(observations: Sequence[Observation], start: Constants = START) -> Constants:
    """Constants that make the mean absolute log error smallest, averaged over groups.

    A coordinate search from ``start`` with shrinking steps, and a ridge towards it: 100 rows
    take about two seconds.
    """
    best, least = start, loss(observations, start, start)
    for step in _STEPS:
        improved = True
        while improved:
            improved = False
            for name in FITTED:
                for factor in (math.exp(step), math.exp(-step)):
                    value = getattr(best, name) * factor
                    trial = replace(best, **{name: value})
                    error = loss(observations, trial, start)
                    if error < least - 1e-5:
                        best, least, improved = trial, error, True
                        break
    return best


def loss(observations: Sequence[Observation], trial: Constants, start: Constants) -> float:
    """The macro-averaged mean of ``|ln(predicted / measured)|``, and the ridge."""
    errors: dict[str, list[float]] = defaultdict(list)
    for seen in observations:
        errors[seen.group].append(min(_CLIP, abs(log_error(seen, trial))))
    means = [sum(group) / len(group) for group in errors.values()]
    pulls = [math.log(getattr(trial, name) / getattr(start, name)) ** 2 for name in FITTED]
    return sum(means) / max(1, len(means)) + _RIDGE * sum(pulls) / len(pulls)


def log_error(seen: Observation, constants: Constants) -> float:
    """``ln(predicted / measured)`` of one observation."""
    step = step_time_of(seen.architecture, seen.workload, seen.layout, seen.card, constants)
    return math.log(float(step.p50_s) / seen.step_s)
