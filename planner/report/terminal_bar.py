"""The memory of one card as a bar of letters."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from planner.report.card_memory import CardMemory, Segment
from planner.report.figures import bare_gib, gib, one_line
from planner.report.paper import Paper

_COLOURS = (
    "blue",
    "yellow",
    "magenta",
    "green",
    "cyan",
    "red",
    "bright_blue",
    "bright_black",
    "bright_magenta",
    "bright_green",
)
_FILLS = "#=+:%o*x~@&$"
_LONGEST = 96
# Smaller components than this share of the card are told together.
_SMALL = 0.004


@dataclass(frozen=True, slots=True)
class Glyphs:
    """Letters of the bar."""

    block: str
    uncertain: str
    limit: str
    pointer: str


_UNICODE = Glyphs("█", "░", "│", "▲")
_ASCII = Glyphs("#", ".", "|", "^")


@dataclass(frozen=True, slots=True)
class _Stripe:
    """A segment with its look."""

    name: str
    size_bytes: float
    fill: str
    style: str


def memory_bar(memory: CardMemory, paper: Paper) -> list[Text]:
    """The bar, its marks and its legend."""
    glyphs = _ASCII if paper.ascii_only else _UNICODE
    stripes = _stripes(memory, paper, glyphs)
    length = min(_LONGEST, paper.width - 4)
    return [
        _bar(memory, stripes, glyphs, length),
        *_marks(memory, glyphs, length),
        *_legend(memory, stripes, glyphs, paper),
    ]


def _stripes(memory: CardMemory, paper: Paper, glyphs: Glyphs) -> list[_Stripe]:
    """Colours where there are colours, else a letter of its own for every component."""
    big = [part for part in memory.segments if part.size_bytes >= _SMALL * memory.end_bytes]
    rest = sum(part.size_bytes for part in memory.segments if part not in big)
    if rest > 0:
        big.append(Segment("", "other", "", rest))
    return [
        _Stripe(
            paper.clean(part.name),
            part.size_bytes,
            glyphs.block if paper.coloured else _FILLS[at % len(_FILLS)],
            _COLOURS[at % len(_COLOURS)] if paper.coloured else "",
        )
        for at, part in enumerate(big)
    ]


def _cell(size_bytes: float, memory: CardMemory, length: int) -> int:
    return round(size_bytes / memory.end_bytes * length)


def _bar(memory: CardMemory, stripes: Sequence[_Stripe], glyphs: Glyphs, length: int) -> Text:
    bar, end, filled = Text("  "), 0.0, 0
    for stripe in stripes:
        end += stripe.size_bytes
        cells = _cell(end, memory, length) - filled
        bar.append(stripe.fill * cells, style=stripe.style)
        filled += cells
    p95 = _cell(memory.p95_bytes, memory, length)
    bar.append(glyphs.uncertain * (p95 - filled), style="dim")
    if memory.limit_bytes is not None:
        limit = _cell(memory.limit_bytes, memory, length)
        bar.append(" " * (limit - max(p95, filled)))
        bar.append(glyphs.limit, style="bold")
    return bar


def _marks(memory: CardMemory, glyphs: Glyphs, length: int) -> list[Text]:
    """Pointers under the bar; a label that would touch its neighbour goes a line down."""
    marks = [("p50", memory.p50_bytes), ("p95", memory.p95_bytes)]
    if memory.limit_bytes is not None:
        marks.append(("limit", memory.limit_bytes))
    at = {name: 2 + _cell(size, memory, length) for name, size in marks}
    pointers = [" "] * (length + 4)
    for column in at.values():
        pointers[column] = glyphs.pointer
    lines: list[str] = [""]
    for name, size in marks:
        label = f"{name} {bare_gib(size)}"
        # The label of p50 ends at its pointer and that of p95 begins there: they often are close.
        shift = {"p50": len(label) - 1, "p95": 0}.get(name, len(label) // 2)
        start = max(0, min(at[name] - shift, length + 3 - len(label)))
        if lines[-1] and start < len(lines[-1]) + 2:
            lines.append("")
        lines[-1] = lines[-1].ljust(start) + label
    return [Text("".join(pointers).rstrip()), *(Text(line, style="bold") for line in lines)]


def _legend(
    memory: CardMemory, stripes: Sequence[_Stripe], glyphs: Glyphs, paper: Paper
) -> list[Text]:
    lines, line = [], Text("  ")
    items = [(s.fill, s.style, f"{s.name} {bare_gib(s.size_bytes)}") for s in stripes]
    more = bare_gib(memory.p95_bytes - memory.p50_bytes)
    items.append((glyphs.uncertain, "dim", f"up to p95 {more} GiB more"))
    for fill, style, label in items:
        if line.cell_len > 2 and line.cell_len + len(label) + 5 > paper.width:
            lines.append(line)
            line = Text("  ")
        line.append(fill * 2, style=style)
        line.append(f" {label}   ")
    return [*lines, line]


def headline(memory: CardMemory) -> str:
    """What the bar shows."""
    limit = (
        f"a process gets {gib(memory.limit_bytes)}"
        if memory.limit_bytes is not None
        else "its size is unknown"
    )
    return f"Memory of one {one_line(memory.gpu)} in GiB ({limit})"
