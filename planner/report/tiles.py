"""The figures of the decision, large."""

from dataclasses import dataclass
from typing import Any

from planner.plan import Choice, Plan
from planner.report import words
from planner.report.card_memory import card_memory
from planner.report.figures import (
    UNKNOWN,
    bare_gib,
    energy,
    figure,
    gib,
    hours,
    known,
    mass,
    money,
    one_line,
    plural,
)
from planner.report.rows import currency_of


@dataclass(frozen=True, slots=True)
class Part:
    """A figure inside a sentence."""

    before: str
    value: Any
    text: str
    after: str = ""


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure of the decision and what belongs to it."""

    label: str
    value: Any
    big: str
    more: tuple[Part, ...]


def approvable(choice: Choice) -> bool:
    """Whether there is an amount that can be approved: it takes known GPU-hours."""
    cost = choice.prediction.cost
    return cost is not None and known(cost.gpu_hours_p95) is not None


def request(plan: Plan, choice: Choice) -> str:
    """What approval is asked for, in one sentence."""
    workload = plan.ask.workload
    what = (
        f"to train {words.model_name(workload)} with {words.method_name(workload.method)} on "
        f"{choice.gpus:,} {words.card_name(choice)} card{'' if choice.gpus == 1 else 's'}"
    )
    clock, cost = choice.prediction.hours, choice.prediction.cost
    if clock is None or cost is None or not approvable(choice):
        return f"What it takes {what} is unknown: nothing says how many samples or steps there are."
    high, low = (money(value, currency_of(plan)) for value in (cost.cost_p95, cost.cost_p50))
    amount = f"up to {high} ({low} expected)"
    if UNKNOWN in (high, low):
        amount = f"up to {figure(cost.gpu_hours_p95)} GPU-hours of unknown price"
    return f"Approval is asked for {amount}: {what} for {hours(clock.hours_p50)}."


def tiles(plan: Plan, choice: Choice) -> tuple[Tile, ...]:
    """Cost, time, GPU-hours, cards, energy and memory."""
    nodes = f"on {plural(choice.nodes, 'node')}"
    return (
        _cost(choice, currency_of(plan)),
        _time(choice),
        _gpu_hours(choice),
        Tile(
            "cards",
            choice.gpus,
            f"{choice.gpus:,} x {one_line(choice.gpu)}",
            (Part("preemptible, " if choice.preemptible else "", choice.nodes, nodes),),
        ),
        _energy(choice),
        _memory(choice),
    )


def _high(value: Any, text: str) -> tuple[Part, ...]:  # noqa: ANN401
    return (Part("high ", value, text),)


def _cost(choice: Choice, currency: str) -> Tile:
    cost = choice.prediction.cost
    low, high = (cost.cost_p50, cost.cost_p95) if cost else (None, None)
    return Tile("cost, expected", low, money(low, currency), _high(high, money(high, currency)))


def _time(choice: Choice) -> Tile:
    clock = choice.prediction.hours
    if clock is None:
        return Tile("time, expected", None, UNKNOWN, ())
    more = _high(clock.hours_p95, hours(clock.hours_p95))
    wall = Part("; with waiting ", clock.wall_hours_p50, hours(clock.wall_hours_p50))
    if known(clock.wall_hours_p50) in (None, known(clock.hours_p50)):
        wall = Part("", None, "; no waiting counted")
    return Tile("time, expected", clock.hours_p50, hours(clock.hours_p50), (*more, wall))


def _gpu_hours(choice: Choice) -> Tile:
    cost = choice.prediction.cost
    low, high = (cost.gpu_hours_p50, cost.gpu_hours_p95) if cost else (None, None)
    return Tile("GPU-hours, expected", low, figure(low), _high(high, figure(high)))


def _energy(choice: Choice) -> Tile:
    cost = choice.prediction.cost
    kwh, kg = (cost.energy_kwh, cost.co2_kg) if cost else (None, None)
    return Tile("energy, expected", kwh, energy(kwh), (Part("", kg, mass(kg), " of CO2"),))


def _memory(choice: Choice) -> Tile:
    memory = card_memory(choice)
    more = Part("of ", memory.limit_bytes, gib(memory.limit_bytes), " that a card offers")
    if memory.limit_bytes is None:
        more = Part("", None, "what the card offers is unknown")
    big = f"{bare_gib(memory.p95_bytes)} GiB"
    return Tile("memory of a card, high", memory.p95_bytes, big, (more,))
