"""Multipliers of the planner's parts, learnt level by level from what runs have measured.

Four levels lie above each other: all runs, the method, the key (method, quantisation,
attention, card, stack), the model. Each level starts from the one above and moves as far as its
own runs pull it, so that one run shifts a prediction and three runs of a model decide it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec
import numpy as np

from planner.calibration.curves import MEMORY_WIDTHS, TIME_WIDTHS, memory_curve, time_curve
from planner.calibration.observation import Key, MemoryObservation, TimeObservation
from planner.calibration.robust_fit import Vector, robust_fit

Observation: TypeAlias = TimeObservation | MemoryObservation

Residuals: TypeAlias = Callable[[Vector], Vector]


@dataclass(frozen=True, slots=True)
class _Priors:
    """What is believed before any run."""

    widths: Vector
    noise: tuple[float, ...]
    """What runs of one level differ by, relatively, from all runs down to one model."""
    jumps: Vector
    """Where the best curve may lie far from the parent's."""


_TIME = _Priors(
    TIME_WIDTHS,
    (0.2, 0.12, 0.06, 0.03),
    np.array(
        [[0, 0, 0, 0, 0], [0, -0.5, 0, 0.3, 0], [0, -1.5, 0, 0.8, 0], [0, 0, 0, 0, 1]], dtype=float
    ),
)
_MEMORY = _Priors(MEMORY_WIDTHS, (0.1, 0.07, 0.05, 0.03), np.zeros((1, 3)))


class Level(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one level has learnt."""

    theta: tuple[float, ...]
    runs: int
    observations: int
    spread: float
    """Root mean square of the remaining relative errors."""


Levels: TypeAlias = dict[str, Level]


def fit_time(
    observations: Sequence[TimeObservation], wanted: frozenset[str] | None = None
) -> Levels:
    """Learns the time curve of every level; without observations there is no level.

    Args:
        observations: of any number of runs.
        wanted: names of the levels that are needed; None is all of them.

    >>> key = Key(method="lora", model="gemma-2b")
    >>> runs = [
    ...     TimeObservation(run=str(n), key=key, measured_s=2.0 * n, floor_s=0.1, line_s=n)
    ...     for n in (1.0, 2.0, 4.0)
    ... ]
    >>> round(float(time_at(fit_time(runs), key, floor_s=0.1, line_s=8.0)), 1)
    16.0
    """
    return _fit(observations, time_residuals, _TIME, wanted)


def fit_memory(
    observations: Sequence[MemoryObservation], wanted: frozenset[str] | None = None
) -> Levels:
    """Learns the multipliers of every level; runs that went out of memory only push upwards."""
    return _fit(observations, memory_residuals, _MEMORY, wanted)


def time_at(levels: Levels, key: Key, floor_s: float, line_s: float, fixed_s: float = 0.0) -> float:
    """Seconds of a step after calibration; the planner's own without a level for the key."""
    theta = theta_of(levels, key, len(TIME_WIDTHS))
    return float(time_curve(theta, floor_s, line_s, fixed_s))


def memory_at(
    levels: Levels,
    key: Key,
    static_bytes: float,
    dynamic_bytes: float,
    slack_bytes: float = 0.0,
    context_bytes: float = 0.0,
) -> float:
    """Bytes at the peak after calibration."""
    theta = theta_of(levels, key, len(MEMORY_WIDTHS))
    return float(memory_curve(theta, static_bytes, dynamic_bytes, slack_bytes, context_bytes))


def level_names(key: Key) -> tuple[str, ...]:
    """The levels of a key, from all runs down to its model.

    >>> level_names(Key(method="lora", card="A100", model="gemma-2b"))
    ('all', 'lora', 'lora none flash A100', 'lora none flash A100 gemma-2b')
    """
    parts = (key.method, key.quant, key.attention, key.card, key.stack)
    common = " ".join(part for part in parts if part)
    return ("all", key.method, common, f"{common} {key.model}".strip())


def deepest(levels: Levels, key: Key) -> str | None:
    """The nearest level that has learnt something; None without any."""
    return next((name for name in reversed(level_names(key)) if name in levels), None)


def theta_of(levels: Levels, key: Key, parameters: int) -> Vector:
    """The parameters for a key; zeros, the planner's own word, without any level."""
    name = deepest(levels, key)
    return np.zeros(parameters) if name is None else np.array(levels[name].theta)


def time_residuals(observations: Sequence[TimeObservation]) -> Residuals:
    """Relative errors of the parameters, as logarithms of predicted over measured."""
    floor, line, fixed, measured = np.array(
        [[o.floor_s, o.line_s, o.fixed_s, o.measured_s] for o in observations]
    ).T

    def residuals(theta: Vector) -> Vector:
        return np.asarray(np.log(time_curve(theta, floor, line, fixed) / measured))

    return residuals


def memory_residuals(observations: Sequence[MemoryObservation]) -> Residuals:
    """Relative errors; of a run that went out of memory only what was predicted too low."""
    *parts, measured = np.array(
        [
            [o.static_bytes, o.dynamic_bytes, o.slack_bytes, o.context_bytes, o.measured_bytes]
            for o in observations
        ]
    ).T
    censored = np.array([o.censored for o in observations])

    def residuals(theta: Vector) -> Vector:
        errors = np.log(memory_curve(theta, *parts) / measured)
        return np.asarray(np.where(censored, np.minimum(errors, 0.0), errors))

    return residuals


def _fit(
    observations: Sequence[Observation],
    residuals_of: Callable[..., Residuals],
    priors: _Priors,
    wanted: frozenset[str] | None,
) -> Levels:
    levels: Levels = {}
    for depth, sigma in enumerate(priors.noise):
        groups: dict[str, list[Observation]] = {}
        for observation in observations:
            name = level_names(observation.key)[depth]
            if wanted is None or name in wanted:
                groups.setdefault(name, []).append(observation)
        for name, group in groups.items():
            parent = _parent(levels, group[0].key, depth, len(priors.widths))
            levels[name] = _level(group, residuals_of(group), parent, sigma, priors)
    return levels


def _level(
    group: Sequence[Observation],
    residuals: Residuals,
    parent: Vector,
    sigma: float,
    priors: _Priors,
) -> Level:
    starts = [parent + jump for jump in priors.jumps]
    theta = robust_fit(lambda t: residuals(t) / sigma, parent, priors.widths, starts)
    return Level(
        theta=tuple(float(value) for value in theta),
        runs=len({observation.run for observation in group}),
        observations=len(group),
        spread=float(np.sqrt(np.mean(residuals(theta) ** 2))),
    )


def _parent(levels: Levels, key: Key, depth: int, parameters: int) -> Vector:
    return np.array(levels[level_names(key)[depth - 1]].theta) if depth else np.zeros(parameters)
