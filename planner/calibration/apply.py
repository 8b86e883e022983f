"""A calibration put on a prediction."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from planner.architecture import Architecture
from planner.calibration.curves import MEMORY_WIDTHS, TIME_WIDTHS, time_curve
from planner.calibration.errors import Errors
from planner.calibration.fit import Levels, deepest, theta_of
from planner.calibration.key import key_of
from planner.calibration.observation import Key
from planner.calibration.parts import CONST, STATIC, time_parts
from planner.calibration.robust_fit import Vector
from planner.calibration.store import Calibration, planner_version
from planner.cards import Card
from planner.layout import Layout, Quantity
from planner.prediction import Memory, StepTime
from planner.workload import Workload

_OWN_RUNS = 5.0
"""So many runs weigh as much as the planner's own margin between p50 and p95. Not fitted."""
_P95 = 1.645
_LEAST_MARGIN = 0.01


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A prediction after calibration, and what was used, in words for the plan."""

    memory: Memory
    step: StepTime
    words: str


def calibrated(
    architecture: Architecture,
    workload: Workload,
    layout: Layout,
    card: Card,
    memory: Memory,
    step: StepTime,
    calibration: Calibration | None,
) -> Calibrated:
    """Applies what runs have taught; the figures may be arrays over a layout.

    Without a calibration, or where no run has anything in common with the workload, the
    prediction comes back as it is.
    """
    if calibration is None:
        return Calibrated(memory, step, "none: the planner's own constants")
    if calibration.planner != planner_version():
        words = f"none: that of {calibration.created[:10]} is of an older planner, calibrate again"
        return Calibrated(memory, step, words)
    key = key_of(architecture, workload, card.name, calibration.stack)
    if deepest(calibration.time_levels, key) is not None:
        parts = time_parts(architecture, workload, layout, card, step)
        theta = theta_of(calibration.time_levels, key, len(TIME_WIDTHS))
        busy = time_curve(theta, parts.floor_s, parts.line_s, parts.fixed_s)
        error = _error(calibration.time_levels, key, calibration.time_errors)
        step = calibrated_step(step, busy, error)
    if deepest(calibration.memory_levels, key) is not None:
        theta = theta_of(calibration.memory_levels, key, len(MEMORY_WIDTHS))
        error = _error(calibration.memory_levels, key, calibration.memory_errors)
        memory = calibrated_memory(memory, theta, error)
    return Calibrated(memory, step, _words(calibration, key))


def calibrated_step(step: StepTime, busy_s: Quantity, errors: Errors | None) -> StepTime:
    """The step with another time without the wait for data; its parts keep their shares."""
    before = step.p50_s - step.data_wait_s
    factor = busy_s / np.maximum(before, 1e-12)
    median = busy_s + step.data_wait_s
    margin = _margin(step.p95_s / np.maximum(step.p50_s, 1e-12) - 1.0, errors)
    return replace(
        step,
        compute_s=step.compute_s * factor,
        exposed_communication_s=step.exposed_communication_s * factor,
        optimizer_s=step.optimizer_s * factor,
        p50_s=median,
        p95_s=median * (1.0 + margin),
    )


def calibrated_memory(memory: Memory, theta: Vector, errors: Errors | None) -> Memory:
    """The peak with every component multiplied; context and NCCL stay as they are.

    torch cannot measure what lies outside its allocator, so no run teaches about that.
    """
    static, dynamic, slack = (float(value) for value in np.exp(theta))
    factors = {
        name: static if name in STATIC else slack if name == "slack" else dynamic
        for name in memory.components
        if name not in CONST or name == "slack"
    }
    components = {name: value * factors.get(name, 1.0) for name, value in memory.components.items()}
    fixed = _sum(memory.components, STATIC)
    phases = {
        name: static * fixed + dynamic * (value - fixed) for name, value in memory.phases.items()
    }
    allocated = sum((v for n, v in components.items() if n not in CONST), start=np.float64(0.0))
    peak = sum(components.values(), start=np.float64(0.0))
    # The process has everything that the metric has, and what the metric leaves out.
    beyond = memory.process_p50_bytes - memory.peak_p50_bytes
    process = peak + beyond
    return replace(
        memory,
        components=components,
        phases=phases,
        allocated_bytes=allocated,
        peak_p50_bytes=peak,
        peak_p95_bytes=peak
        * (1.0 + _margin_of(memory.peak_p95_bytes, memory.peak_p50_bytes, errors)),
        process_p50_bytes=process,
        process_p95_bytes=process
        * (1.0 + _margin_of(memory.process_p95_bytes, memory.process_p50_bytes, errors)),
        needed_p95_bytes=memory.needed_p95_bytes + process - memory.process_p50_bytes,
        unlimited_p95_bytes=memory.unlimited_p95_bytes + process - memory.process_p50_bytes,
    )


def _sum(components: Mapping[str, Quantity], names: frozenset[str]) -> Quantity:
    return sum((v for n, v in components.items() if n in names), start=np.float64(0.0))


def _margin_of(p95: Quantity, p50: Quantity, errors: Errors | None) -> Quantity:
    return _margin(p95 / np.maximum(p50, 1.0) - 1.0, errors)


def _margin(own: Quantity, errors: Errors | None) -> Quantity:
    """Relative distance from p50 to p95: the planner's own, and with runs more and more theirs."""
    if errors is None or errors.rms is None:
        return np.maximum(own, 0.0)
    seen = float(np.expm1(_P95 * errors.rms))
    mixed = (_OWN_RUNS * own + errors.runs * seen) / (_OWN_RUNS + errors.runs)
    wide: Quantity = np.maximum(mixed, _LEAST_MARGIN)
    return wide


def _error(levels: Levels, key: Key, errors: Mapping[str, Errors]) -> Errors | None:
    name = deepest(levels, key)
    return None if name is None else errors.get(name)


def _words(calibration: Calibration, key: Key) -> str:
    said = [
        _kind("step time", calibration.time_levels, key, calibration.time_errors),
        _kind("memory", calibration.memory_levels, key, calibration.memory_errors),
    ]
    known = [text for text in said if text]
    if not known:
        return f"none that fits: the calibration of {calibration.created[:10]} knows no such run"
    return f"of {calibration.created[:10]}; " + "; ".join(known)


def _kind(what: str, levels: Levels, key: Key, errors: Mapping[str, Errors]) -> str | None:
    """One quantity in words: from which runs, and how wrong it is on runs left out."""
    name = deepest(levels, key)
    if name is None:
        return None
    runs = levels[name].runs
    text = f"{what} from {runs} run{'s' if runs > 1 else ''} of '{name}'"
    found = errors.get(name)
    if found is None or found.after is None:
        return f"{text}, error not known yet"
    return (
        f"{text}, mean error {found.before:.0%} before and {found.after:.0%} after (run left out)"
    )
