"""Cost against time: every feasible choice as a point."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from planner.plan import Plan
from planner.prediction import Cost
from planner.report.figures import amount, hours, known, one_line
from planner.report.places import Anchor, Box, Label, box_of, place
from planner.report.rows import Row, currency_of, rows_of
from planner.report.scale import Scale, Tick, around

WIDTH, HEIGHT = 680.0, 384.0
_FRAME = Box(70.0, 26.0, 664.0, 330.0)
_SHAPES = ("circle", "square", "triangle", "diamond", "cross", "bar")
# From here on the axis counts days.
_DAYS_FROM_HOURS = 96.0
# With more points than this, only the chosen one and the front have labels.
_CROWD = 15
_GPU_HOURS = "GPU-hours"


@dataclass(frozen=True, slots=True)
class Point:
    """One choice."""

    x: float
    y: float
    shape: str
    chosen: bool
    on_front: bool
    title: str
    """What the browser shows under the pointer, and what a screen reader says."""


@dataclass(frozen=True, slots=True)
class Bound:
    """The deadline or the budget as a line."""

    at: float
    label: Label


@dataclass(frozen=True, slots=True)
class ParetoChart:
    """Positions of everything on the picture."""

    points: tuple[Point, ...]
    front: str
    """The line through the points that nothing beats in both, as ``x,y x,y``."""
    reach: tuple[float, float, float, float] | None
    """From the chosen point (p50) to its high estimate (p95)."""
    labels: tuple[Label, ...]
    shapes: tuple[tuple[str, str], ...]
    """Shape and card."""
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_title: str
    y_title: str
    deadline: Bound | None
    budget: Bound | None
    text: str
    frame: Box = _FRAME
    width: float = WIDTH
    height: float = HEIGHT


@dataclass(frozen=True, slots=True)
class _Dot:
    row: Row
    hours: float
    spent: float
    """Money, or GPU-hours where no price is known."""


def pareto_chart(plan: Plan) -> ParetoChart | None:
    """Lays the chart out; None where fewer than two choices have known hours.

    Where no price is known, GPU-hours take the place of the cost.
    """
    unit = _unit(plan)
    dots = [dot for row in rows_of(plan) if (dot := _dot(row, unit)) is not None]
    if len(dots) < 2:
        return None
    high = _high(dots, unit)
    x, y = _axes(plan, dots, high, unit)
    shapes = _shapes(dots)
    points = [_point(dot, x, y, shapes[dot.row.choice.gpu], unit) for dot in dots]
    marks = [Box(at.x - 7, at.y - 7, at.x + 7, at.y + 7) for at in points]
    front = sorted((dot for dot in dots if dot.row.on_front), key=lambda dot: dot.hours)
    line = [(x.at(dot.hours), y.at(dot.spent)) for dot in front]
    deadline, budget = _deadline(plan, x), _budget(plan, y, marks, unit)
    reach = _reach(dots, high, x, y)
    taken = [*marks, *_occupied(line, reach, deadline, budget)]
    in_units, long = _in_units(x, dots)
    return ParetoChart(
        # Drawn last, the chosen one lies on top.
        points=tuple(sorted(points, key=lambda point: (point.chosen, point.on_front))),
        front=" ".join(f"{at_x},{at_y}" for at_x, at_y in line),
        reach=reach,
        labels=_labels(dots, points, taken),
        shapes=tuple((shape, one_line(card)) for card, shape in shapes.items()),
        x_ticks=in_units.spaced_ticks(8),
        y_ticks=y.ticks(6),
        x_title=f"expected time in {long}{_kind(x)}",
        y_title=f"expected {_said(unit)}{_kind(y)}",
        deadline=deadline,
        budget=budget,
        text=_words(dots, unit),
    )


def _unit(plan: Plan) -> str:
    """The currency, or GPU-hours where nothing has a price."""
    costs = (choice.prediction.cost for choice in plan.feasible)
    priced = any(cost is not None and known(cost.cost_p50) is not None for cost in costs)
    return currency_of(plan) if priced else _GPU_HOURS


def _kind(scale: Scale) -> str:
    return " (logarithmic)" if scale.logarithmic else ""


def _said(unit: str) -> str:
    return unit if unit == _GPU_HOURS else f"cost in {unit}"


def _spent(cost: Cost | None, unit: str) -> tuple[float | None, float | None]:
    """What a choice takes, expected and high."""
    if cost is None:
        return None, None
    if unit == _GPU_HOURS:
        return known(cost.gpu_hours_p50), known(cost.gpu_hours_p95)
    return known(cost.cost_p50), known(cost.cost_p95)


def _axes(
    plan: Plan, dots: Sequence[_Dot], high: tuple[float, ...], unit: str
) -> tuple[Scale, Scale]:
    """Room for all points, and for the high estimate of the chosen one."""
    budget = None if unit == _GPU_HOURS else plan.ask.budget
    times = [*(dot.hours for dot in dots), *high[:1]]
    costs = [*(dot.spent for dot in dots), *high[1:]]
    return (
        _axis(times, plan.ask.deadline_hours, _FRAME.left, _FRAME.right),
        _axis(costs, budget, _FRAME.bottom, _FRAME.top),
    )


def _in_units(x: Scale, dots: Sequence[_Dot]) -> tuple[Scale, str]:
    """The axis of time in hours, or in days for long runs."""
    if max(dot.hours for dot in dots) < _DAYS_FROM_HOURS:
        return x, "hours"
    return Scale(x.low / 24, x.high / 24, x.start, x.end, x.logarithmic), "days"


def _shapes(dots: Sequence[_Dot]) -> dict[str, str]:
    cards = dict.fromkeys(dot.row.choice.gpu for dot in dots)
    return {card: _SHAPES[at % len(_SHAPES)] for at, card in enumerate(cards)}


def _occupied(
    front: Sequence[tuple[float, float]],
    reach: tuple[float, float, float, float] | None,
    deadline: Bound | None,
    budget: Bound | None,
) -> list[Box]:
    """Where no label may lie, beside the points."""
    boxes = [box_of(bound.label) for bound in (deadline, budget) if bound]
    boxes += _along(front) + _along([reach[:2], reach[2:]] if reach else [])
    if deadline:
        boxes += _along([(deadline.at, _FRAME.top), (deadline.at, _FRAME.bottom)])
    if budget:
        boxes += _along([(_FRAME.left, budget.at), (_FRAME.right, budget.at)])
    return boxes


def _dot(row: Row, unit: str) -> _Dot | None:
    clock = row.choice.prediction.hours
    x, (y, _) = known(clock.hours_p50 if clock else None), _spent(row.choice.prediction.cost, unit)
    return None if x is None or y is None else _Dot(row, x, y)


def _axis(values: Sequence[float], limit: float | None, start: float, end: float) -> Scale:
    """Holds all points, and the limit where it is near them."""
    high = max(values)
    if limit is not None and high < limit <= 1.5 * high:
        high = limit
    return around(min(values), high, start, end)


def _point(dot: _Dot, x: Scale, y: Scale, shape: str, unit: str) -> Point:
    row = dot.row
    title = f"{row.number}: {row.choice.gpus} x {one_line(row.choice.gpu)}, {hours(dot.hours)}, "
    return Point(
        x.at(dot.hours),
        y.at(dot.spent),
        shape,
        row.chosen,
        row.on_front,
        f"{title}{unit} {amount(dot.spent)}",
    )


def _high(dots: Sequence[_Dot], unit: str) -> tuple[float, ...]:
    """Hours and cost of the chosen point at p95; nothing where they are not known."""
    chosen = next((dot.row.choice.prediction for dot in dots if dot.row.chosen), None)
    if chosen is None or chosen.hours is None:
        return ()
    far, (_, dear) = known(chosen.hours.hours_p95), _spent(chosen.cost, unit)
    return () if far is None or dear is None else (far, dear)


def _reach(
    dots: Sequence[_Dot], high: tuple[float, ...], x: Scale, y: Scale
) -> tuple[float, float, float, float] | None:
    chosen = next((dot for dot in dots if dot.row.chosen), None)
    if chosen is None or not high:
        return None
    return x.at(chosen.hours), y.at(chosen.spent), x.at(high[0]), y.at(high[1])


def _along(corners: Sequence[tuple[float, ...]]) -> list[Box]:
    """Small boxes on a line, so that no label is written across it."""
    boxes = []
    for (x1, y1), (x2, y2) in itertools.pairwise(corners):
        steps = max(1, round(math.hypot(x2 - x1, y2 - y1) / 4))
        for at in range(steps + 1):
            x, y = x1 + (x2 - x1) * at / steps, y1 + (y2 - y1) * at / steps
            boxes.append(Box(x - 2, y - 2, x + 2, y + 2))
    return boxes


def _labels(
    dots: Sequence[_Dot], points: Sequence[Point], taken: Sequence[Box]
) -> tuple[Label, ...]:
    """The chosen point and the front have names, the others where there is room for a number."""
    pairs = sorted(
        zip(dots, points, strict=True),
        key=lambda pair: (not pair[1].chosen, not pair[1].on_front, pair[0].row.number),
    )
    wanted = [
        (point.x, point.y, _names(dot, point))
        for dot, point in pairs
        if len(dots) <= _CROWD or point.chosen or point.on_front
    ]
    return place(wanted, taken, _FRAME)


def _names(dot: _Dot, point: Point) -> tuple[str, ...]:
    """The full name where there is room for it, else the number in the table."""
    row = dot.row
    if not (point.chosen or point.on_front):
        return (f"{row.number}",)
    card = one_line(row.choice.gpu)
    short = card if len(card) <= 18 else f"{card[:15]}..."
    spot = " spot" if row.choice.preemptible else ""
    return f"{row.number}: {row.choice.gpus:,} x {short}{spot}", f"{row.number}"


def _deadline(plan: Plan, x: Scale) -> Bound | None:
    limit = plan.ask.deadline_hours
    if limit is None or not x.low < limit < x.high:
        return None
    at, text = x.at(limit), f"deadline {hours(limit)}"
    anchor: Anchor = "end" if at > (_FRAME.left + _FRAME.right) / 2 else "start"
    return Bound(at, Label(at, _FRAME.top - 8, anchor, text))


def _budget(plan: Plan, y: Scale, marks: Sequence[Box], unit: str) -> Bound | None:
    """Its label goes where no point is."""
    limit = plan.ask.budget
    if limit is None or unit == _GPU_HOURS or not y.low < limit < y.high:
        return None
    at, text = y.at(limit), f"budget {unit} {amount(limit)}"
    places = (
        Label(_FRAME.left + 8, at - 5, "start", text),
        Label(_FRAME.right - 8, at - 5, "end", text),
        Label(_FRAME.left + 8, at + 15, "start", text),
        Label(_FRAME.right - 8, at + 15, "end", text),
    )
    free = (one for one in places if not any(box_of(one).meets(mark) for mark in marks))
    return Bound(at, next(free, places[0]))


def _words(dots: Sequence[_Dot], unit: str) -> str:
    parts = "; ".join(
        f"choice {dot.row.number}{' (chosen)' if dot.row.chosen else ''} {hours(dot.hours)} and "
        f"{amount(dot.spent)}"
        for dot in dots
    )
    return f"Points of expected time and expected {_said(unit)}: {parts}."
