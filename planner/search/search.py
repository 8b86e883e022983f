"""From a question to a plan: everything possible, the best of it, and why not the others."""

import datetime as dt
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from planner.cards import card_of
from planner.errors import PlannerError
from planner.estimate import check_together, notes_of
from planner.models.read import architecture_of
from planner.plan import PLAN_VERSION, Ask, CardOffer, Choice, Plan, Rejected
from planner.search.candidate import Candidate
from planner.search.conditions import Conditions
from planner.search.evaluate import Evaluator
from planner.search.explain import duration, rejected_of
from planner.search.grid import refuse_inexact
from planner.search.limits import Limits
from planner.search.nearest import groups_of, nearest
from planner.search.options import OFFLOADS, STAGES, options_of, stage_name
from planner.search.sensitivity import sensitivity_of
from planner.search.table import TIE, Table, order_of, pareto_rows, table_of, value_of, within
from planner.search.unlock import unlock_of

if TYPE_CHECKING:
    from planner.calibration.store import Calibration

_SHOWN = 24
"""Feasible plans that a plan holds beside the front: enough for a table, few enough for a page."""


def search(
    ask: Ask,
    *,
    limits: Limits | None = None,
    conditions: Conditions | None = None,
    config_hash: str = "",
    assumptions: tuple[str, ...] = (),
    calibration: "Calibration | None" = None,
) -> Plan:
    """Evaluates every candidate of an ask, and explains the best one.

    Args:
        ask: what is asked and what may be varied.
        limits: numbers that are given.
        conditions: interruptions, queues and the power grid.
        config_hash: of the experiment that the plan is for.
        assumptions: what the asker assumed; the plan repeats it.
        calibration: what finished runs have taught.

    Raises:
        PlannerError: an unknown model or card, an ask that is empty, a global batch that cannot
            be kept, or a deadline or budget for a run of unknown length.
    """
    limits, conditions = limits or Limits(), conditions or Conditions()
    _check(ask)
    refuse_inexact(ask, limits)
    architecture = architecture_of(ask.workload.model)
    check_together(architecture, ask.workload)
    evaluator = Evaluator(architecture, ask.workload, conditions, calibration)
    table = table_of(groups_of(ask, evaluator, limits))
    rows = order_of(ask, table, np.flatnonzero(within(ask, table)))
    shown, front = _shown(table, rows)
    chosen = int(rows[0]) if rows.size else None
    candidate = None
    if chosen is not None:
        candidate = table.groups[int(table.group[chosen])].candidate(int(table.place[chosen]))
    choices = tuple(table.choice(row) for row in shown)
    return Plan(
        version=PLAN_VERSION,
        created=dt.datetime.now(tz=dt.UTC).isoformat(timespec="seconds"),
        config_hash=config_hash,
        ask=ask,
        chosen=choices[0] if choices else None,
        why=_why(ask, table, rows),
        feasible=choices,
        pareto=tuple(shown.index(int(row)) for row in front),
        rejected=_rejected(ask, evaluator, table, candidate, limits),
        binding=choices[0].prediction.binding if choices else _binding(table),
        unlock=unlock_of(ask, evaluator, candidate) if candidate else None,
        nearest=None if candidate else nearest(ask, evaluator, table, limits),
        candidates=table.size,
        assumptions=(*assumptions, *_notes(ask, evaluator, choices)),
        calibration=_calibration(table, chosen),
        sensitivity=sensitivity_of(ask, evaluator, candidate) if candidate else (),
    )


def _check(ask: Ask) -> None:
    if not ask.offers:
        raise PlannerError("no cards are offered: write planner.cards=[{gpu: NAME, max_gpus: N}]")
    for offer in ask.offers:
        card_of(offer.gpu)
        for name in ("gpus_per_node", "max_gpus"):
            if getattr(offer, name) < 1:
                raise PlannerError(f"{offer.gpu}: {name} must be at least 1")
        price = offer.price_per_gpu_hour
        if price is not None and not 0 < price < float("inf"):
            raise PlannerError(
                f"{offer.gpu}: a price must be above 0, not {price:g}; leave it out where it is "
                f"not known"
            )
    for name in ("deadline_hours", "budget"):
        value = getattr(ask, name)
        if value is not None and not 0 < value < float("inf"):
            raise PlannerError(f"{name} must be above 0, not {value:g}")
        if value is not None and ask.workload.samples is None and ask.workload.steps is None:
            raise PlannerError(
                f"{name} needs the length of the run: write planner.samples=N or train.steps=N"
            )
    unknown = [s for s in ask.shardings if s not in STAGES]
    unknown += [o for o in ask.offloads if o not in OFFLOADS]
    if unknown or not options_of(ask) or not ask.micro_batches or min(ask.micro_batches) < 1:
        raise PlannerError(
            "nothing can be searched: shardings, offloads, losses and micro batches need at least "
            "one possible combination"
        )


def _shown(table: Table, rows: NDArray[np.int64]) -> tuple[list[int], NDArray[np.int64]]:
    """The best row of every kind in the order of the objective, and the front among them."""
    front = pareto_rows(table, rows)
    kept: list[int] = []
    kinds: set[tuple[object, ...]] = set()
    for row in map(int, rows):
        group = table.groups[int(table.group[row])]
        gpus = int(table.ranks[row, 3])
        several = {(group.offer, gpus), (group.offer, group.option.sharding, group.option.offload)}
        if not several <= kinds:
            kept.append(row)
            kinds |= several
        if len(kept) == _SHOWN:
            break
    wanted = {*kept, *map(int, front)}
    return [int(row) for row in rows if int(row) in wanted], front


def _rejected(
    ask: Ask, evaluator: Evaluator, table: Table, chosen: Candidate | None, limits: Limits
) -> tuple[Rejected, ...]:
    if chosen is None:
        return ()
    others = [best_of(ask, table, offer) for offer in ask.offers if offer != chosen.offer]
    found = [other for other in others if other is not None]
    return rejected_of(ask, evaluator, chosen, found, limits)


def best_of(ask: Ask, table: Table, offer: CardOffer) -> Candidate | None:
    """The best that an offer can do, or the one nearest to fitting where nothing does."""
    own = [i for i, group in enumerate(table.groups) if group.offer == offer]
    rows = np.flatnonzero(np.isin(table.group, own))
    if not rows.size:
        return None
    best = int(rows[np.argmin(table.excess_bytes[rows])])
    for good in (within(ask, table), table.fits):
        if np.any(good[rows]):
            best = int(order_of(ask, table, rows[good[rows]])[0])
            break
    return table.groups[int(table.group[best])].candidate(int(table.place[best]))


def _why(ask: Ask, table: Table, rows: NDArray[np.int64]) -> str:
    if not rows.size:
        return "no configuration is possible"
    value = value_of(ask, table)[rows]
    ties = int(np.count_nonzero(value <= value.min() * (1 + TIE)))
    known = not np.all(np.isnan(table.cost))
    least = {"fastest": "the shortest time", "cheapest": "the lowest cost"}[ask.objective]
    if ask.objective == "cheapest" and not known:
        least = "the fewest GPU-hours (no price is known)"
    limits = [] if ask.deadline_hours is None else [f"end within {duration(ask.deadline_hours)}"]
    limits += [] if ask.budget is None else [f"cost at most {ask.budget:g}"]
    bounds = "".join(f" and {limit} at p95" for limit in limits)
    plural = "s" if rows.size > 1 else ""
    reason = f"{least} of {rows.size} configuration{plural} that fit into memory{bounds}"
    if ties > 1:
        choice = table.choice(int(rows[0]))
        stage = f"the lowest stage ({stage_name(choice.sharding)})"
        rules = f"{stage}, then no offload and the shortest time"
        if ask.objective == "fastest":
            rules = f"the lowest cost, then {stage}"
        reason += f"; of {ties} within 1 % of it {rules}"
    return reason


def _calibration(table: Table, chosen: int | None) -> str:
    """What the choice's figures were corrected with; else those of the smallest candidate."""
    row = int(np.argmin(table.excess_bytes)) if chosen is None else chosen
    return table.groups[int(table.group[row])].calibration


def _binding(table: Table) -> str:
    """The largest component where even the smallest candidate does not fit."""
    return table.choice(int(np.argmin(table.excess_bytes))).prediction.binding


def _notes(ask: Ask, evaluator: Evaluator, choices: tuple[Choice, ...]) -> tuple[str, ...]:
    gpu = choices[0].gpu if choices else ask.offers[0].gpu
    return notes_of(evaluator.architecture, evaluator.workload, card_of(gpu))
