"""Axes: from figures to positions on a page, with ticks at round numbers."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from planner.report.places import width_of

_GAP = 10.0
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_DECADE = (1.0, 2.0, 5.0)


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear or logarithmic axis between two positions."""

    low: float
    high: float
    start: float
    """Position of ``low``; may lie behind ``end``, as on an upright axis."""
    end: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """The position of a value, rounded to a tenth.

        >>> Scale(0, 10, 0, 200).at(2.5), Scale(1, 100, 0, 200, True).at(10)
        (50.0, 100.0)
        """
        if self.logarithmic:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, count: int = 6) -> tuple[Tick, ...]:
        """Round values inside the axis."""
        values = (
            decade_ticks(self.low, self.high)
            if self.logarithmic
            else nice_ticks(self.low, self.high, count)
        )
        return tuple(Tick(self.at(value), written(value)) for value in values)

    def spaced_ticks(self, count: int) -> tuple[Tick, ...]:
        """The same for a level axis: as many as do not touch each other."""
        ticks: list[Tick] = []
        for few in range(count, 1, -1):
            ticks = list(self.ticks(few))
            if not _touching(ticks):
                return tuple(ticks)
        while _touching(ticks):
            ticks = ticks[::2]
        return tuple(ticks)


def written(value: float) -> str:
    """A tick without needless digits.

    >>> [written(value) for value in (5.0, 2.5, 20_000.0, 1.5e6, 2e9)]
    ['5', '2.5', '20,000', '1.5 M', '2 bn']
    """
    for unit, name in ((1e9, " bn"), (1e6, " M")):
        if abs(value) >= unit:
            return f"{value / unit:,g}{name}"
    return f"{value:,.0f}" if value == round(value) else f"{value:g}"


def _touching(ticks: Sequence[Tick]) -> bool:
    return any(
        other.at - one.at < (width_of(one.text) + width_of(other.text)) / 2 + _GAP
        for one, other in itertools.pairwise(ticks)
    )


def nice_step(span: float, count: int) -> float:
    """The smallest step of 1, 2, 2.5 or 5 times a power of ten with at most ``count`` steps.

    >>> nice_step(23.6, 6), nice_step(470, 6), nice_step(0.9, 5)
    (5.0, 100.0, 0.2)
    """
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    return next(step * power for step in _STEPS if step * power >= raw * (1 - 1e-9))


def nice_ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Round values from ``low`` to ``high``.

    >>> nice_ticks(0, 23.6)
    [0.0, 5.0, 10.0, 15.0, 20.0]
    """
    step = nice_step(high - low, count)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(at * step, 10) for at in range(first, last + 1)]


def decade_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of every decade between both ends.

    >>> decade_ticks(8, 130)
    [10.0, 20.0, 50.0, 100.0]
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [step * 10.0**decade for decade in decades for step in _DECADE]
    return [value for value in values if low <= value <= high]


def around(low: float, high: float, start: float, end: float) -> Scale:
    """An axis with a margin around the figures; logarithmic where they differ twentyfold.

    >>> around(10, 40, 0, 100).low
    0.0
    """
    if low > 0 and high / low > 20:
        return Scale(low / 1.3, high * 1.3, start, end, logarithmic=True)
    margin = 0.08 * ((high - low) or high or 1.0)
    bottom = 0.0 if low < 0.5 * high else max(0.0, low - 2 * margin)
    return Scale(bottom, high + margin, start, end)
