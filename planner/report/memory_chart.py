"""The memory of one card as a picture: a bar of components against the card's limit."""

from dataclasses import dataclass

from planner.prediction import GIB
from planner.report.card_memory import CardMemory
from planner.report.figures import bare_gib, percent
from planner.report.places import FONT_PX, Label, box_of
from planner.report.scale import Scale, Tick

WIDTH, HEIGHT = 680.0, 148.0
_LEFT, _RIGHT = 14.0, 664.0
_TOP, _THICK = 40.0, 46.0
_NARROW_PX = 13.0


@dataclass(frozen=True, slots=True)
class Stripe:
    """One component on the bar."""

    x: float
    width: float
    colour: int
    letter: str
    """Empty where the stripe is too narrow for it."""


@dataclass(frozen=True, slots=True)
class LegendLine:
    """One component in the table beside the bar."""

    letter: str
    colour: int
    name: str
    meaning: str
    size_bytes: float
    gib: str
    share: str
    """Of the card's limit."""


@dataclass(frozen=True, slots=True)
class MemoryChart:
    """Positions of everything on the picture."""

    stripes: tuple[Stripe, ...]
    spread: Stripe
    """From p50 to p95."""
    limit_x: float | None
    over_x: float | None
    """Where the bar passes the limit, if it does."""
    labels: tuple[Label, ...]
    ticks: tuple[Tick, ...]
    legend: tuple[LegendLine, ...]
    text: str
    """The picture in words."""
    top: float = _TOP
    thick: float = _THICK
    left: float = _LEFT
    right: float = _RIGHT
    width: float = WIDTH
    height: float = HEIGHT


def memory_chart(memory: CardMemory) -> MemoryChart:
    """Lays the bar out."""
    scale = Scale(0.0, 1.02 * memory.end_bytes / GIB, _LEFT, _RIGHT)
    p50, p95 = scale.at(memory.p50_bytes / GIB), scale.at(memory.p95_bytes / GIB)
    limit = None if memory.limit_bytes is None else scale.at(memory.limit_bytes / GIB)
    return MemoryChart(
        stripes=_stripes(memory, scale),
        spread=Stripe(p50, max(0.0, round(p95 - p50, 1)), 0, ""),
        limit_x=limit,
        over_x=limit if limit is not None and p95 > limit else None,
        labels=_labels(memory, p50, p95, limit),
        ticks=scale.spaced_ticks(8),
        legend=_legend(memory),
        text=_words(memory),
    )


def _stripes(memory: CardMemory, scale: Scale) -> tuple[Stripe, ...]:
    stripes, end = [], 0.0
    for at, part in enumerate(memory.segments):
        start, end = end, end + part.size_bytes / GIB
        x, width = scale.at(start), round(scale.at(end) - scale.at(start), 1)
        stripes.append(Stripe(x, width, at % 10, part.letter if width >= _NARROW_PX else ""))
    return tuple(stripes)


def _labels(memory: CardMemory, p50: float, p95: float, limit: float | None) -> tuple[Label, ...]:
    """p50 ends at its line and p95 begins there; the limit stands above the bar."""
    below, above = _TOP + _THICK + 17, _TOP - 10
    labels = []
    if limit is not None:
        text = f"limit {bare_gib(memory.limit_bytes)} GiB"
        labels.append(Label(limit + 2, above, "end", text))
    high = Label(p95, above, "end", f"high estimate (p95) {bare_gib(memory.p95_bytes)} GiB")
    if labels and box_of(high).meets(box_of(labels[0])):
        high = Label(p95, above - FONT_PX - 4, "end", high.text)
    low = Label(p50 - 5, below, "end", f"expected (p50) {bare_gib(memory.p50_bytes)} GiB")
    if box_of(low).left < 0:
        low = Label(_LEFT, below, "start", low.text)
    if box_of(high).left < 0:
        high = Label(_LEFT, high.y, "start", high.text)
    return (*labels, high, low)


def _legend(memory: CardMemory) -> tuple[LegendLine, ...]:
    limit = memory.limit_bytes
    return tuple(
        LegendLine(
            part.letter,
            at % 10,
            part.name,
            part.meaning,
            part.size_bytes,
            bare_gib(part.size_bytes),
            percent(part.size_bytes / limit if limit else None),
        )
        for at, part in enumerate(memory.segments)
    )


def _words(memory: CardMemory) -> str:
    parts = ", ".join(f"{part.name} {bare_gib(part.size_bytes)}" for part in memory.segments)
    limit = bare_gib(memory.limit_bytes)
    return (
        f"Stacked bar of memory in GiB: {parts}. Expected peak {bare_gib(memory.p50_bytes)}, "
        f"high estimate {bare_gib(memory.p95_bytes)}, limit of the card {limit}."
    )
