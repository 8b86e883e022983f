"""The table of choices as lines that fit into the terminal."""

import re
from collections import Counter
from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from planner.report.paper import Paper
from planner.report.rows import NARROWEST, WIDEST, Column, Row, columns, few_rows, shown

_MOST_ROWS = 12
# From this level of narrowing on, columns stand closer together.
_CLOSE = 5
_SHORTEST = 10
_SOCKET = re.compile(r"-(SXM\d?|PCIe)\b")


def choices_table(rows: Sequence[Row], currency: str, paper: Paper) -> list[Text]:
    """The best rows, with as many columns as there is room for."""
    few = few_rows(rows, _MOST_ROWS)
    for level in range(WIDEST, NARROWEST + 1):
        chosen = shown(columns(currency), level, few)
        cells = [[paper.clean(column.text(row.choice)) for column in chosen] for row in few]
        widths = _widths(chosen, cells)
        gap = 1 if level >= _CLOSE else 2
        if 2 + sum(widths) + gap * (len(widths) - 1) <= paper.width:
            break
    else:
        names = _short_names([row[0] for row in cells])
        cells = [[names[row[0]], *row[1:]] for row in cells]
        widths = _narrowed(_widths(chosen, cells), paper.width)
    lines = _header(chosen, widths, " " * gap)
    for row, words in zip(few, cells, strict=True):
        lines.append(_line(row, words, chosen, widths, " " * gap))
    return lines + _footnotes(rows, few, paper)


def _widths(chosen: Sequence[Column], cells: Sequence[Sequence[str]]) -> list[int]:
    heads = [max(map(cell_len, _titles(column))) for column in chosen]
    return [max(head, *(cell_len(row[at]) for row in cells), 0) for at, head in enumerate(heads)]


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """Names of cards without their socket, unless two would become one.

    >>> list(_short_names(["A100-SXM4-80GB", "H100-SXM5", "H100-PCIe"]).values())
    ['A100-80GB', 'H100-SXM5', 'H100-PCIe']
    """
    short = {name: _SOCKET.sub("", name) for name in names}
    times = Counter(short.values())
    return {name: text if times[text] == 1 else name for name, text in short.items()}


def _narrowed(widths: list[int], room: int) -> list[int]:
    """The card's name gives way where nothing else can; what tells cards apart stays."""
    others = 1 + sum(widths[1:]) + len(widths)
    return [min(widths[0], max(_SHORTEST, room - others)), *widths[1:]]


def _titles(column: Column) -> tuple[str, str]:
    """A title over two lines: what it is, and which figures."""
    first, _, second = column.title.partition(" ")
    return first, second


def _header(chosen: Sequence[Column], widths: Sequence[int], gap: str) -> list[Text]:
    titles = [_titles(column) for column in chosen]
    lines = []
    for at in range(2):
        line = "  "
        for column, title, width in zip(chosen, titles, widths, strict=True):
            line += _cell(title[at], width, column.numeric) + gap
        if line.strip():
            lines.append(Text(line, style="dim"))
    return lines


def _cell(text: str, width: int, numeric: bool) -> str:
    size = cell_len(text)
    if size > width:
        # The end of a name tells cards apart: 40GB, 80GB.
        tail = (width - 1) // 2
        text = f"{set_cell_size(text, width - 1 - tail)}~{text[-tail:]}"
        return set_cell_size(text, width)
    return " " * (width - size) + text if numeric else text + " " * (width - size)


def _line(
    row: Row, cells: Sequence[str], chosen: Sequence[Column], widths: Sequence[int], gap: str
) -> Text:
    mark = "> " if row.chosen else "* " if row.on_front else "  "
    parts = [
        _cell(text, width, column.numeric)
        for text, width, column in zip(cells, widths, chosen, strict=True)
    ]
    return Text(mark + gap.join(parts), style="bold green" if row.chosen else "")


def _footnotes(rows: Sequence[Row], few: Sequence[Row], paper: Paper) -> list[Text]:
    note = "> chosen   * nothing is both cheaper and faster"
    if any(row.choice.preemptible for row in few):
        note += "   spot: preemptible"
    if len(few) < len(rows):
        note += f"   {len(rows) - len(few)} more in the report"
    return paper.wrapped(note, 2, "dim")
