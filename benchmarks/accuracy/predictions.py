"""The planner's answers for the rows, with what the overhead adds kept apart.

The closed form has no constant that was fitted on these rows; the overhead has a few. Keeping
them apart allows to refit the few without a model family and to score that family with them.
"""

from dataclasses import dataclass, replace

import numpy as np

from benchmarks.accuracy.competitors import FORMULAS
from benchmarks.accuracy.folds import memory_without, time_without
from benchmarks.accuracy.rows import Row
from planner.architecture import Architecture
from planner.cards import card_of
from planner.layout import Layout, layout_of
from planner.memory.allocated import Allocated
from planner.memory.closed_form import allocated_of
from planner.memory.overhead import (
    CONSTANTS,
    Constants,
    Overhead,
    added_of,
    needed_p95_of,
    overhead_of,
    p95_of,
)
from planner.models.read import architecture_of
from planner.read_workload import read_workload
from planner.time.constants import Constants as TimeConstants
from planner.time.efficiency import dequantise_seconds, gpu_seconds, host_seconds
from planner.time.parts import parts_of
from planner.time.step import step_time_of
from planner.workload import MemoryMetric, Workload


@dataclass(frozen=True, slots=True)
class Answer:
    """What the planner says of one row."""

    row: Row
    workload: Workload
    architecture: Architecture
    layout: Layout
    allocated: Allocated
    step_s: float | None
    floor_s: float = 0.0
    line_s: float = 0.0
    fixed_s: float = 0.0
    """Parts of the step for a calibration: launches, arithmetic, the rest."""

    def p50(self, metric: MemoryMetric, constants: Constants = CONSTANTS) -> float:
        """Bytes at the median."""
        overhead = self._overhead(constants)
        return float(self.allocated.peak_bytes + sum(added_of(overhead, metric).values()))

    def p95(self, metric: MemoryMetric, constants: Constants = CONSTANTS) -> float:
        """Bytes at p95."""
        return float(p95_of(self.allocated, self._overhead(constants), metric))

    def fits(self, constants: Constants = CONSTANTS) -> bool:
        """As the planner decides: what is needed at p95 against the card."""
        overhead = self._overhead(constants)
        return bool(needed_p95_of(self.allocated, overhead) <= self.usable_bytes)

    @property
    def usable_bytes(self) -> float:
        """What a process gets of the row's card."""
        budget = self.row.budget_bytes
        return card_of(self.workload.gpu).usable_bytes if budget is None else 0.98 * budget

    def competitors(self) -> dict[str, float | None]:
        """What the published formulas say of the same row."""
        return {name: of(self.architecture, self.workload) for name, of in FORMULAS.items()}

    def left_out(self) -> Constants:
        """The overhead's constants that never saw this row's family."""
        return memory_without(self.row.family)

    def _overhead(self, constants: Constants) -> Overhead:
        found = overhead_of(
            self.architecture, self.workload, self.layout, self.allocated, constants
        )
        if self.row.budget_bytes is None:
            return found
        # A budget is no card of the table: the slack ends at it all the same.
        room = self.usable_bytes - found.context_bytes - self.allocated.peak_bytes
        least = found.slack_least_bytes
        return replace(
            found,
            usable_bytes=self.usable_bytes,
            slack_p50_bytes=np.maximum(least, np.minimum(found.slack_p50_bytes, room)),
            slack_p95_bytes=np.maximum(least, np.minimum(found.slack_p95_bytes, room)),
        )


def answer(row: Row) -> Answer:
    """Asks the planner about one row."""
    workload = read_workload(row.workload)
    architecture = architecture_of(workload.model)
    layout = layout_of(workload)
    times = (None, 0.0, 0.0, 0.0)
    if row.step_s is not None:
        times = _times(architecture, workload, layout, time_without(row.family))
    return Answer(
        row,
        workload,
        architecture,
        layout,
        allocated_of(architecture, workload, layout),
        *times,
    )


def _times(
    architecture: Architecture, workload: Workload, layout: Layout, constants: TimeConstants
) -> tuple[float, float, float, float]:
    """Seconds of a step, and its parts as a calibration takes them."""
    card = card_of(workload.gpu)
    step = step_time_of(architecture, workload, layout, card, constants)
    parts = parts_of(architecture, workload, layout)
    accum = float(layout.grad_accum)
    line = sum(float(gpu_seconds(part, workload, card, constants)) for part in parts)
    floor = host_seconds(parts, constants) + dequantise_seconds(parts, workload, card, constants)
    fixed = float(step.exposed_communication_s + step.optimizer_s)
    return float(step.p50_s), accum * floor, accum * line, fixed
