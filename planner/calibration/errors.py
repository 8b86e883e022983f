"""How well a calibration predicts a run that it has not seen."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec
import numpy as np

from planner.calibration.curves import MEMORY_WIDTHS, TIME_WIDTHS
from planner.calibration.fit import (
    Levels,
    Observation,
    Residuals,
    fit_memory,
    fit_time,
    level_names,
    memory_residuals,
    theta_of,
    time_residuals,
)
from planner.calibration.observation import MemoryObservation, TimeObservation

Fit: TypeAlias = Callable[..., Levels]

_RUNS = 60
"""Of more runs only so many, evenly chosen, are left out in turn."""


class Errors(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Mean absolute relative errors over the runs of one level."""

    runs: int
    before: float
    """Of the planner without a calibration."""
    after: float | None
    """Of the calibration from all other runs; None where there is no other run."""
    rms: float | None
    """Root mean square of the same, as a logarithm: how wide p95 must be."""


def time_errors(observations: Sequence[TimeObservation]) -> dict[str, Errors]:
    """Leaves out one run after the other and predicts its step times from the rest."""
    return _errors(observations, fit_time, time_residuals, len(TIME_WIDTHS))


def memory_errors(observations: Sequence[MemoryObservation]) -> dict[str, Errors]:
    """The same for peaks; runs that went out of memory teach, but have no error of their own."""
    return _errors(observations, fit_memory, memory_residuals, len(MEMORY_WIDTHS))


def _errors(
    observations: Sequence[Observation],
    fit: Fit,
    residuals_of: Callable[..., Residuals],
    parameters: int,
) -> dict[str, Errors]:
    runs = list(dict.fromkeys(o.run for o in observations if not _censored(o)))
    chosen = [runs[int(i)] for i in np.linspace(0, len(runs) - 1, min(len(runs), _RUNS))]
    before: dict[str, list[float]] = {}
    after: dict[str, list[float]] = {}
    for run in dict.fromkeys(chosen):
        own = [o for o in observations if o.run == run and not _censored(o)]
        rest = [o for o in observations if o.run != run]
        levels = fit(rest, frozenset(name for one in own for name in level_names(one.key)))
        for one in own:
            residuals = residuals_of([one])
            plain = float(residuals(np.zeros(parameters))[0])
            learnt = float(residuals(theta_of(levels, one.key, parameters))[0])
            for name in dict.fromkeys(level_names(one.key)):
                before.setdefault(name, []).append(plain)
                if rest:
                    after.setdefault(name, []).append(learnt)
    counts = {name: _runs_of(observations, name) for name in before}
    return {name: _summary(counts[name], before[name], after.get(name)) for name in before}


def _censored(observation: Observation) -> bool:
    return isinstance(observation, MemoryObservation) and observation.censored


def _runs_of(observations: Sequence[Observation], name: str) -> int:
    return len({o.run for o in observations if name in level_names(o.key) and not _censored(o)})


def _summary(runs: int, before: list[float], after: list[float] | None) -> Errors:
    return Errors(
        runs=runs,
        before=_mape(before),
        after=None if after is None else _mape(after),
        rms=None if after is None else float(np.sqrt(np.mean(np.square(after)))),
    )


def _mape(logarithms: list[float]) -> float:
    return float(np.mean(np.abs(np.expm1(logarithms))))
