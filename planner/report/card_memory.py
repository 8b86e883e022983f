"""The memory of one card as a stack of segments, for the bars of every page."""

from dataclasses import dataclass

from planner.cards import card_of
from planner.errors import PlannerError
from planner.plan import Choice
from planner.report.figures import known
from planner.report.words import component_meaning, component_name

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True)
class Segment:
    """One component of the peak."""

    letter: str
    """Marks the segment where colours cannot be told apart."""
    name: str
    meaning: str
    size_bytes: float


@dataclass(frozen=True, slots=True)
class CardMemory:
    """Peak memory of the fullest card against what the card offers."""

    gpu: str
    segments: tuple[Segment, ...]
    p50_bytes: float
    """The process, as the driver shows it: what the fit is decided on."""
    p95_bytes: float
    limit_bytes: float | None
    """What a process can get of the card; None for a card that is in no table."""

    @property
    def end_bytes(self) -> float:
        """Where a chart must reach to."""
        return max(self.p95_bytes, self.limit_bytes or 0.0)

    @property
    def free_bytes(self) -> float | None:
        """What is left at p95; below zero where it does not fit."""
        return None if self.limit_bytes is None else self.limit_bytes - self.p95_bytes


def usable_bytes(gpu: str) -> float | None:
    """What a process can get of a card; None for a card that is in no table."""
    try:
        return card_of(gpu).usable_bytes
    except PlannerError:
        return None


def card_memory(choice: Choice) -> CardMemory:
    """Reads the stack off a choice's prediction.

    Where the asked metric leaves something of the process out (the CUDA context, NCCL, the
    allocator's slack), that difference is a segment of its own, so that the stack ends at the p50
    that the fit is decided on.
    """
    memory = choice.prediction.memory
    sizes = {name: known(size) or 0.0 for name, size in memory.components.items()}
    p50 = float(memory.process_p50_bytes)
    outside = p50 - sum(sizes.values())
    if outside > 0.001 * p50:
        sizes["outside the metric"] = outside
    named = [(name, size) for name, size in sizes.items() if size > 0]
    return CardMemory(
        gpu=choice.gpu,
        segments=tuple(
            Segment(
                _LETTERS[at % len(_LETTERS)], component_name(name), component_meaning(name), size
            )
            for at, (name, size) in enumerate(named)
        ),
        p50_bytes=p50,
        p95_bytes=float(memory.process_p95_bytes),
        limit_bytes=usable_bytes(choice.gpu),
    )
