"""The terminal as paper: how wide it is, and which letters and colours it takes."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

MAX_WIDTH = 140
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Paper:
    """What may be printed."""

    width: int
    ascii_only: bool
    coloured: bool

    def clean(self, text: str) -> str:
        """The text in letters that the terminal has."""
        if not self.ascii_only:
            return text
        return text.encode("ascii", "backslashreplace").decode("ascii")

    def wrapped(self, text: str, indent: int = 2, style: str = "") -> list[Text]:
        """A paragraph as lines of the paper's width."""
        room = max(16, self.width - indent)
        lines = Text(self.clean(text)).wrap(Console(width=room), room, no_wrap=False)
        return [Text(" " * indent + line.plain.rstrip(), style=style) for line in lines]

    def item(self, text: str) -> list[Text]:
        """A line of a list, with a dash."""
        lines = self.wrapped(text, 4)
        return [Text(f"  - {lines[0].plain[4:]}"), *lines[1:]]

    def pairs(self, pairs: Iterable[tuple[str, str]]) -> list[Text]:
        """Labels at the left, paragraphs beside them; long labels stand above theirs."""
        known = [(self.clean(label), self.clean(text)) for label, text in pairs]
        short = [cell_len(label) for label, _ in known if cell_len(label) <= self.width // 3]
        column = 2 + max(short, default=0) + 2
        lines: list[Text] = []
        for label, text in known:
            longest = max(map(cell_len, text.split()), default=0)
            if cell_len(label) > column - 4 or longest > self.width - column:
                lines += self.wrapped(label, 2, "dim")
                # A hash is copied: it stays in one piece.
                lines += [Text(f"    {text}")] if _HASH.fullmatch(text) else self.wrapped(text, 4)
            else:
                lines += self._beside(label, text, column)
        return lines

    def _beside(self, label: str, text: str, column: int) -> list[Text]:
        lines = self.wrapped(text, column) or [Text(" " * column)]
        first = Text("  ")
        first.append(set_cell_size(label, column - 2), style="dim")
        return [first.append(lines[0].plain[column:]), *lines[1:]]

    def heading(self, text: str) -> list[Text]:
        """An empty line and a headline."""
        return [Text(), *self.wrapped(text, 0, "bold")]


def paper_of(console: Console) -> Paper:
    """Reads a console: pipes have no colours, old terminals no letters beside ASCII."""
    return Paper(
        width=max(40, min(console.width, MAX_WIDTH)),
        ascii_only=console.options.ascii_only,
        coloured=console.color_system is not None and not console.no_color,
    )


def print_lines(console: Console, lines: Sequence[Text]) -> None:
    """Prints lines as they are: nothing wraps them again."""
    for line in lines:
        line.rstrip()
        console.print(line, soft_wrap=True, highlight=False, markup=False, emoji=False)
