"""Labels on a chart that do not lie over each other."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.cells import cell_len

FONT_PX = 12
# The mean letter of a sans serif is about half its size wide; a little more is safe.
_LETTER = 0.56

Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle on the page."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "Box") -> bool:
        """Whether both have a point in common."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def inside(self, frame: "Box") -> bool:
        """Whether the frame holds all of it."""
        return (
            frame.left <= self.left
            and self.right <= frame.right
            and frame.top <= self.top
            and self.bottom <= frame.bottom
        )


@dataclass(frozen=True, slots=True)
class Label:
    """Text at its place; ``y`` is the base line."""

    x: float
    y: float
    anchor: Anchor
    text: str


def width_of(text: str, font_px: float = FONT_PX) -> float:
    """How wide a text is, near enough.

    >>> width_of("8 cards")
    47.04
    """
    return round(cell_len(text) * _LETTER * font_px, 2)


def box_of(label: Label) -> Box:
    """The rectangle that a label takes."""
    width = width_of(label.text)
    left = {"start": label.x, "middle": label.x - width / 2, "end": label.x - width}[label.anchor]
    return Box(left, label.y - FONT_PX, left + width, label.y + 3)


def place(
    points: Sequence[tuple[float, float, tuple[str, ...]]], taken: Iterable[Box], frame: Box
) -> tuple[Label, ...]:
    """Labels for points, the most important first.

    Every point brings its texts, the longest first; one whose texts find no free place close to
    it goes without.
    """
    used, placed = list(taken), []
    for x, y, texts in points:
        labels = (label for text in texts for label in _candidates(x, y, text))
        for label in labels:
            box = box_of(label)
            if box.inside(frame) and not any(box.meets(other) for other in used):
                placed.append(label)
                used.append(box)
                break
    return tuple(placed)


def _candidates(x: float, y: float, text: str) -> tuple[Label, ...]:
    return (
        Label(x + 11, y - 7, "start", text),
        Label(x + 13, y + 4, "start", text),
        Label(x + 11, y + 18, "start", text),
        Label(x - 11, y - 7, "end", text),
        Label(x - 13, y + 4, "end", text),
        Label(x - 11, y + 18, "end", text),
        Label(x, y - 14, "middle", text),
        Label(x, y + 24, "middle", text),
    )
