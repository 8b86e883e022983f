"""How far each assumption moves the cost: bars to both sides of the expected cost."""

from dataclasses import dataclass

from planner.plan import Plan
from planner.report.facts import Swing, swings
from planner.report.figures import amount, known, money
from planner.report.places import Label
from planner.report.rows import currency_of
from planner.report.scale import Scale, Tick, written

WIDTH = 680.0
_LABELS_RIGHT, _LEFT, _RIGHT = 216.0, 296.0, 606.0
_TOP, _ROW, _THICK = 34.0, 46.0, 22.0
_LETTERS = 24


@dataclass(frozen=True, slots=True)
class Bar:
    """One assumption."""

    y: float
    low_x: float
    low_width: float
    high_x: float
    high_width: float
    name: str
    ends: str
    low: Label
    high: Label


@dataclass(frozen=True, slots=True)
class TornadoChart:
    """Positions of everything on the picture."""

    bars: tuple[Bar, ...]
    base_x: float
    base: str
    ticks: tuple[Tick, ...]
    title: str
    text: str
    height: float
    thick: float = _THICK
    top: float = _TOP
    names_x: float = _LABELS_RIGHT
    left: float = _LEFT
    right: float = _RIGHT
    width: float = WIDTH


def tornado_chart(plan: Plan) -> TornadoChart | None:
    """Lays the chart out; None where nothing moves a cost that is known."""
    found = swings(plan)
    cost = plan.chosen.prediction.cost if plan.chosen else None
    base = known(cost.cost_p50) if cost else None
    if not found or base is None:
        return None
    values = [base, *(value for swing in found for value in (swing.cost_low, swing.cost_high))]
    low, high = min(values), max(values)
    if low == high:
        return None
    scale = Scale(low, high, _LEFT, _RIGHT)
    currency = currency_of(plan)
    return TornadoChart(
        bars=tuple(_bar(at, swing, base, scale) for at, swing in enumerate(found)),
        base_x=scale.at(base),
        base=f"expected {money(base, currency)}",
        ticks=scale.spaced_ticks(5),
        title=f"cost in {currency}",
        text=_words(found, currency, base),
        height=_TOP + _ROW * len(found) + 44,
    )


def _bar(at: int, swing: Swing, base: float, scale: Scale) -> Bar:
    y = _TOP + 12 + at * _ROW
    low_x, low_width = _side(swing.cost_low, base, scale)
    high_x, high_width = _side(swing.cost_high, base, scale)
    first, last = sorted((swing.cost_low, swing.cost_high))
    left, right = scale.at(min(first, base)), scale.at(max(last, base))
    return Bar(
        y=y,
        low_x=low_x,
        low_width=low_width,
        high_x=high_x,
        high_width=high_width,
        name=_short(swing.parameter),
        ends=_short(f"{swing.low} to {swing.high}"),
        low=Label(left - 6, y + _THICK / 2 + 4, "end", _cost(first)),
        high=Label(right + 6, y + _THICK / 2 + 4, "start", _cost(last)),
    )


def _side(cost: float, base: float, scale: Scale) -> tuple[float, float]:
    x, middle = scale.at(cost), scale.at(base)
    return min(x, middle), round(abs(x - middle), 1)


def _cost(value: float) -> str:
    """The cost at the end of a bar, where there is little room."""
    return amount(value) if value < 1e6 else written(float(f"{value:.4g}"))


def _short(text: str) -> str:
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 3]}..."


def _words(found: tuple[Swing, ...], currency: str, base: float) -> str:
    parts = "; ".join(
        f"{swing.parameter}: {amount(swing.cost_low)} at {swing.low}, "
        f"{amount(swing.cost_high)} at {swing.high}"
        for swing in found
    )
    return f"Bars of the cost in {currency} around the expected {amount(base)}. {parts}."
