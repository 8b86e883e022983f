"""From the record of a run to observations: its measurements beside the planner's word on them."""

import math
from dataclasses import dataclass

from planner.architecture import Architecture
from planner.calibration.key import key_of, stack_of
from planner.calibration.observation import Key, MemoryObservation, TimeObservation
from planner.calibration.parts import memory_parts, time_parts
from planner.calibration.read_run import RunRecord, StepSample
from planner.calibration.run_workload import Shape, device_card, run_workload
from planner.cards import Card
from planner.errors import PlannerError
from planner.layout import layout_of
from planner.memory.peak import memory_of
from planner.models.read import architecture_of
from planner.prediction import GIB
from planner.time.step import step_time_of

_LONGEST_SHARE = 0.02
"""Share of the longest rows in the distribution that stands for a run's lengths."""


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything that one run teaches."""

    time: tuple[TimeObservation, ...]
    memory: tuple[MemoryObservation, ...]


def observe(record: RunRecord) -> Observed:
    """Asks the planner about a run that has run.

    Raises:
        PlannerError: the planner does not know its card, or its configuration.
    """
    card = _card(record)
    architecture = architecture_of(run_workload(record.config, _one(1, 0.0), "process").model)
    time = tuple(_time(record, sample, architecture, card) for sample in record.samples)
    memory = _memory(record, architecture, card)
    sizes = [o.measured_s for o in time] + [o.measured_bytes for o in memory]
    if not all(0 < size < math.inf for size in sizes):
        raise PlannerError("it measured a time or a peak that is no positive number")
    return Observed(time, memory)


def _card(record: RunRecord) -> Card:
    """The card that the run measured itself; of one that never began, the one that was asked."""
    cluster = record.config.get("cluster")
    device = record.device or (cluster.get("gpu_type") if isinstance(cluster, dict) else None)
    if not device:
        raise PlannerError("it does not say which card it ran on")
    return device_card(str(device))


def _time(
    record: RunRecord, sample: StepSample, architecture: Architecture, card: Card
) -> TimeObservation:
    rows = _rows(record)
    shape = _one(max(1, round(sample.positions / rows)), sample.pictures / rows)
    workload = run_workload(record.config, shape, "process")
    layout = layout_of(workload)
    step = step_time_of(architecture, workload, layout, card)
    parts = time_parts(architecture, workload, layout, card, step)
    return TimeObservation(
        run=record.run,
        key=key_of(architecture, workload, card.name, stack_of(dict(record.packages))),
        measured_s=sample.busy_s,
        floor_s=float(parts.floor_s),
        line_s=float(parts.line_s),
        fixed_s=float(parts.fixed_s),
    )


def _memory(
    record: RunRecord, architecture: Architecture, card: Card
) -> tuple[MemoryObservation, ...]:
    if card.name == "CPU":
        return ()
    if record.out_of_memory:
        measured = {"process": card.usable_bytes}
        shape = _one(_max_length(record), 1.0)
    else:
        peaks = {"allocated": record.peak_allocated_gib, "reserved": record.peak_reserved_gib}
        measured = {name: gib * GIB for name, gib in peaks.items() if gib is not None}
        shape = _spread(record)
    return tuple(
        _peak(record, architecture, card, shape, metric, size) for metric, size in measured.items()
    )


def _peak(
    record: RunRecord,
    architecture: Architecture,
    card: Card,
    shape: Shape,
    metric: str,
    measured_bytes: float,
) -> MemoryObservation:
    workload = run_workload(record.config, shape, metric)
    parts = memory_parts(memory_of(architecture, workload, layout_of(workload)).components)
    key: Key = key_of(architecture, workload, card.name, stack_of(dict(record.packages)))
    return MemoryObservation(
        run=record.run,
        key=key,
        measured_bytes=measured_bytes,
        static_bytes=float(parts.static),
        dynamic_bytes=float(parts.dynamic),
        slack_bytes=float(parts.slack),
        context_bytes=float(parts.context),
        censored=record.out_of_memory,
    )


def _max_length(record: RunRecord) -> int:
    model = record.config.get("model")
    longest = model.get("max_length") if isinstance(model, dict) else None
    if not isinstance(longest, int):
        raise PlannerError("its config.json is of another version (model.max_length)")
    return longest


def _rows(record: RunRecord) -> float:
    """Rows of one process in a step."""
    asked = run_workload(record.config, _one(1, 0.0), "process")
    return float(asked.micro_batch * asked.grad_accum)


def _one(length: int, images: float) -> Shape:
    return Shape((length,), (1.0,), images)


def _spread(record: RunRecord) -> Shape:
    """The mean length of the run, with a few of its longest: they decide the peak."""
    rows = _rows(record)
    mean, images = max(1, round(record.mean_positions / rows)), record.mean_pictures / rows
    if record.longest <= mean:
        return _one(record.longest, images)
    share = (1.0 - _LONGEST_SHARE, _LONGEST_SHARE)
    return Shape((mean, record.longest), share, images)
