"""How far the cost moves when an assumption turns out otherwise."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from msgspec import structs

from planner.plan import Ask
from planner.prediction import StepTime
from planner.search.candidate import Candidate
from planner.search.evaluate import Evaluator, Group
from planner.workload import Lengths, Workload

Row = dict[str, Any]

PRICE_SHARE = 0.2
"""Quotes for one card differ more than that between providers; within one, less."""
SPEED_SHARE = 0.15
"""The aim for the mean error of uncalibrated step times."""
LENGTH_SHARE = 0.2


def sensitivity_of(ask: Ask, evaluator: Evaluator, chosen: Candidate) -> tuple[Row, ...]:
    """Cost of the choice at the low and the high value of every assumption.

    Empty where the cost is not known: nothing can be said to move then.
    """
    best = evaluator.candidate(chosen, ask.global_batch)
    if _cost(best) is None:
        return ()
    rows = [*_price(best), *_speed(evaluator, best), *_lengths(ask, evaluator, chosen)]
    rows += _interruptions(ask, evaluator, chosen)
    known = [row for row in rows if None not in (row["cost_low"], row["cost_high"])]
    return tuple(sorted(known, key=lambda row: -abs(row["cost_high"] - row["cost_low"])))


def _price(best: Group) -> Iterator[Row]:
    cost = _cost(best)
    if cost is None or best.cost is None:
        return
    price = best.cost.price_per_gpu_hour
    low, high = 1 - PRICE_SHARE, 1 + PRICE_SHARE
    prices = (round(float(price) * low, 3), round(float(price) * high, 3))
    yield _row("price per card and hour", prices, (cost * low, cost * high))


def _speed(evaluator: Evaluator, best: Group) -> Iterator[Row]:
    """Steps that take less or more than predicted."""
    costs = [_cost(_with_step(evaluator, best, 1 + sign * SPEED_SHARE)) for sign in (-1, 1)]
    shown = tuple(f"{sign}{SPEED_SHARE:.0%}".replace("%", " %") for sign in "-+")
    yield _row("time of a step", shown, costs)


def _with_step(evaluator: Evaluator, best: Group, factor: float) -> Group:
    step = best.step
    names = ("compute_s", "exposed_communication_s", "optimizer_s", "data_wait_s", "p50_s", "p95_s")
    slower: StepTime = replace(step, **{name: factor * getattr(step, name) for name in names})
    workload = best.option.applied(evaluator.workload)
    checkpoint = best.memory.checkpoint_bytes
    hours = evaluator.conditions.hours(
        evaluator.architecture, workload, best.layout, slower, checkpoint, best.offer
    )
    cost = None
    if hours is not None:
        cost = evaluator.conditions.cost(hours, best.layout, best.card, best.offer)
    return replace(best, step=slower, hours=hours, cost=cost)


def _lengths(ask: Ask, evaluator: Evaluator, chosen: Candidate) -> Iterator[Row]:
    means, costs = [], []
    for factor in (1 - LENGTH_SHARE, 1 + LENGTH_SHARE):
        workload = stretched(evaluator.workload, factor)
        group = evaluator.with_workload(workload).candidate(chosen, ask.global_batch)
        means.append(round(mean_length(workload)))
        costs.append(_cost(group))
    yield _row("tokens a sample", means, costs)


def _interruptions(ask: Ask, evaluator: Evaluator, chosen: Candidate) -> Iterator[Row]:
    rates = evaluator.conditions.rates(chosen.offer)
    if rates is None:
        return
    costs = []
    for rate in rates:
        disturbed = evaluator.with_conditions(evaluator.conditions.with_rate(rate))
        costs.append(_cost(disturbed.candidate(chosen, ask.global_batch)))
    yield _row("interruptions a day", rates, costs)


def stretched(workload: Workload, factor: float) -> Workload:
    """The workload with all lengths multiplied; images stay within their sample."""
    lengths = workload.seq_len
    floor = round((workload.images_per_sample or 0) * (workload.image_tokens or 0))
    values = tuple(max(1, floor, round(value * factor)) for value in lengths.values)
    return structs.replace(workload, seq_len=Lengths(values=values, weights=lengths.weights))


def mean_length(workload: Workload) -> float:
    """Tokens a sample on average."""
    lengths = workload.seq_len
    return sum(n * share for n, share in zip(lengths.values, lengths.weights, strict=True))


def _cost(group: Group) -> float | None:
    value = float(group.cost_p50[0])
    return None if math.isnan(value) else value


def _row(name: str, ends: Any, costs: Any) -> Row:  # noqa: ANN401 - two of any one type
    low, high = ends
    return {
        "parameter": name,
        "low": low,
        "high": high,
        "cost_low": costs[0] if costs[0] is None else round(costs[0], 2),
        "cost_high": costs[1] if costs[1] is None else round(costs[1], 2),
    }
