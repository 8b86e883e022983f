"""Memory, time and cost of every candidate, a group of like candidates at a time."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from planner.architecture import Architecture
from planner.cards import Card, card_of
from planner.estimate import binding_component
from planner.layout import Layout, Quantity
from planner.memory.allocated import Allocated
from planner.memory.closed_form import allocated_of
from planner.memory.peak import memory_of
from planner.plan import CardOffer, Choice
from planner.prediction import Cost, Hours, Memory, Prediction, StepTime
from planner.search.candidate import Candidate
from planner.search.conditions import Conditions
from planner.search.options import Option
from planner.time.step import step_time_of
from planner.workload import Workload

if TYPE_CHECKING:
    from planner.calibration.store import Calibration

Values = NDArray[np.float64]
NO_CALIBRATION = "none: the planner's own constants"
_NO_STEP = StepTime(*[math.nan] * 8)


@dataclass(frozen=True, slots=True)
class Group:
    """Candidates that differ in numbers only: one offer and one option, many layouts."""

    offer: CardOffer
    card: Card
    option: Option
    layout: Layout
    memory: Memory
    step: StepTime
    hours: Hours | None
    cost: Cost | None
    calibration: str
    """What was used, in words."""

    @property
    def size(self) -> int:
        """Number of candidates."""
        return int(np.size(self.layout.gpus))

    @property
    def excess_bytes(self) -> Values:
        """Bytes above what the card can give; negative where it fits.

        What is needed at p95 must fit, and the cached blocks at p95 too: a run that lives by
        giving them back at every step is slow and near its end.
        """
        memory = self.memory
        wanted = np.maximum(memory.needed_p95_bytes, memory.unlimited_p95_bytes)
        return self.column(wanted) - self.card.usable_bytes

    @property
    def time_key(self) -> Values:
        """What the fastest is chosen by: hours, or seconds a step where hours are not known."""
        if self.hours is None:
            return self.column(self.step.p50_s)
        return self.column(self.hours.wall_hours_p50)

    @property
    def wall_p95_hours(self) -> Values:
        """Hours until the run has ended at p95, queue included; nan where not known."""
        if self.hours is None:
            return np.full(self.size, np.nan)
        queue = self.hours.wall_hours_p50 - self.hours.hours_p50
        return self.column(self.hours.hours_p95 + queue)

    @property
    def cost_p50(self) -> Values:
        """What the cheapest is chosen by; nan where the price or the hours are not known."""
        return self._unknown if self.cost is None else self.column(self.cost.cost_p50)

    @property
    def cost_p95(self) -> Values:
        """What a budget must hold; nan where not known."""
        return self._unknown if self.cost is None else self.column(self.cost.cost_p95)

    @property
    def card_time(self) -> Values:
        """GPU-hours, or GPU-seconds a step: the cost where prices are not known."""
        if self.cost is None:
            return self.column(self.step.p50_s * self.layout.gpus)
        return self.column(self.cost.gpu_hours_p50)

    @property
    def _unknown(self) -> Values:
        return np.full(self.size, np.nan)

    def column(self, value: Quantity) -> Values:
        """One value a candidate."""
        array = np.asarray(value, dtype=np.float64)
        return array if array.shape == (self.size,) else np.full(self.size, array)

    def choice(self, position: int) -> Choice:
        """One candidate with plain numbers in all its figures."""
        layout, pick = self.layout, _picker(position)
        gpus, per_node = int(pick(layout.gpus)), int(pick(layout.gpus_per_node))
        return Choice(
            gpu=self.card.name,
            gpus=gpus,
            nodes=-(-gpus // per_node),
            gpus_per_node=per_node,
            sharding=self.option.sharding,
            offload=self.option.offload,
            micro_batch=int(pick(layout.micro_batch)),
            grad_accum=int(pick(layout.grad_accum)),
            grad_ckpt=self.option.grad_ckpt,
            loss=self.option.loss,
            preemptible=self.offer.preemptible,
            partition=self.offer.partition,
            prediction=self.prediction(position),
        )

    def candidate(self, position: int) -> Candidate:
        """One candidate without its figures."""
        layout, pick = self.layout, _picker(position)
        numbers = (layout.micro_batch, layout.gpus, layout.gpus_per_node)
        return Candidate(self.offer, self.option, *(int(pick(number)) for number in numbers))

    def at(self, position: int) -> "Group":
        """The group of one candidate alone."""
        pick = _picker(position)
        return replace(
            self,
            layout=_plain(self.layout, pick),
            memory=_plain(self.memory, pick),
            step=_plain(self.step, pick),
            hours=_plain(self.hours, pick) if self.hours else None,
            cost=_plain(self.cost, pick) if self.cost else None,
        )

    def prediction(self, position: int) -> Prediction:
        """The figures of one candidate."""
        one = self.at(position)
        return Prediction(
            fits=bool(one.excess_bytes[0] <= 0),
            memory=one.memory,
            step=one.step,
            hours=one.hours,
            cost=one.cost,
            binding=binding_component(one.memory),
        )


@dataclass(frozen=True, slots=True)
class Evaluator:
    """The formulas for one architecture and workload; what was computed is kept."""

    architecture: Architecture
    workload: Workload
    conditions: Conditions
    calibration: "Calibration | None" = None
    """What runs have taught; put on every group."""
    _live: dict[tuple[Option, bytes], Allocated] = field(default_factory=dict)
    _memories: dict[tuple[str, Option, bytes], Memory] = field(default_factory=dict)
    _steps: dict[tuple[str, Option, bytes], StepTime] = field(default_factory=dict)
    _grid: dict[tuple[CardOffer, Option], Group] = field(default_factory=dict)

    def group(self, offer: CardOffer, option: Option, layout: Layout) -> Group:
        """Evaluates all layouts of one offer and option."""
        card, workload, key = self._given(offer, option, layout)
        memory = self._memory(workload, card, option, layout, key)
        step = self._step(workload, card, option, layout, key)
        words = NO_CALIBRATION
        if self.calibration is not None:
            from planner.calibration.apply import calibrated

            corrected = calibrated(
                self.architecture, workload, layout, card, memory, step, self.calibration
            )
            memory, step, words = corrected.memory, corrected.step, corrected.words
        hours = self.conditions.hours(
            self.architecture, workload, layout, step, memory.checkpoint_bytes, offer
        )
        cost = self.conditions.cost(hours, layout, card, offer) if hours else None
        return Group(offer, card, option, layout, memory, step, hours, cost, words)

    def grid(self, offer: CardOffer, option: Option, layout: Layout) -> Group:
        """Evaluates a group and keeps it for ``candidate``.

        Where nothing fits, the time is left out: nobody asks for it.
        """
        card, workload, key = self._given(offer, option, layout)
        if self.calibration is None:
            memory = self._memory(workload, card, option, layout, key)
            if np.min(memory.needed_p95_bytes) > card.usable_bytes:
                found = Group(
                    offer, card, option, layout, memory, _NO_STEP, None, None, NO_CALIBRATION
                )
                self._grid[offer, option] = found
                return found
        found = self.group(offer, option, layout)
        self._grid[offer, option] = found
        return found

    def _given(
        self, offer: CardOffer, option: Option, layout: Layout
    ) -> tuple[Card, Workload, bytes]:
        card = card_of(offer.gpu)
        workload = structs.replace(option.applied(self.workload), gpu=card.name)
        return card, workload, _key(layout)

    def candidate(self, candidate: Candidate, global_batch: int) -> Group:
        """Finds a candidate in the grid, or evaluates one that the grid does not have."""
        known = self._grid.get((candidate.offer, candidate.option))
        if known is not None and (places := candidate.places_in(known.layout, global_batch)).size:
            return known.at(int(places[0]))
        return self.group(candidate.offer, candidate.option, candidate.layout(global_batch))

    def with_workload(self, workload: Workload) -> "Evaluator":
        """The same for a workload that differs in more than the search varies."""
        return replace(self, workload=workload, _live={}, _memories={}, _steps={}, _grid={})

    def with_conditions(self, conditions: Conditions) -> "Evaluator":
        """The same under other circumstances; memory and steps stay."""
        return replace(self, conditions=conditions, _grid={})

    def _memory(
        self, workload: Workload, card: Card, option: Option, layout: Layout, key: bytes
    ) -> Memory:
        found = self._memories.get((card.name, option, key))
        if found is None:
            live = self._live.get((option, key))
            if live is None:  # the same on every card
                live = allocated_of(self.architecture, workload, layout)
                self._live[option, key] = live
            found = memory_of(self.architecture, workload, layout, live)
            self._memories[card.name, option, key] = found
        return found

    def _step(
        self, workload: Workload, card: Card, option: Option, layout: Layout, key: bytes
    ) -> StepTime:
        found = self._steps.get((card.name, option, key))
        if found is None:
            found = step_time_of(self.architecture, workload, layout, card)
            self._steps[card.name, option, key] = found
        return found


def _key(layout: Layout) -> bytes:
    return b"".join(np.asarray(getattr(layout, f.name)).tobytes() for f in fields(layout))


def _picker(position: int) -> Callable[[Quantity], float]:
    def pick(value: Quantity) -> float:
        array = np.asarray(value)
        return float(array[position]) if array.ndim and array.size > 1 else float(array.flat[0])

    return pick


def _plain(record: Any, pick: Callable[[Quantity], float]) -> Any:  # noqa: ANN401
    """The record with one number for every array in it."""
    changes: dict[str, Any] = {}
    for column in fields(record):
        value = getattr(record, column.name)
        if isinstance(value, dict):
            changes[column.name] = {name: pick(item) for name, item in value.items()}
        elif isinstance(value, np.ndarray | float | int):
            changes[column.name] = pick(value)
    return replace(record, **changes)
