"""Memory that grows step by step, told from memory that only warms up or goes up and down."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

_PARTS = 6
_READINGS_MIN = 48
"""Twenty-four minutes of samples: a first rise that takes longer cannot be told from a growth."""
_LEAST_SHARE_OF_LIMIT = 0.002
_LEAST_BYTES = 16 << 20
_EVEN = 0.4
_STEADY = 0.6
_GIB = 1 << 30
_MIB = 1 << 20


@dataclass(frozen=True)
class Level:
    """Memory held at one moment."""

    step: int
    at_s: float
    held_bytes: int


@dataclass(frozen=True)
class Growth:
    """A steady growth, and when it ends."""

    bytes_a_step: float
    held_bytes: int
    limit_bytes: int
    step: int
    """The step at which the limit is reached if the growth goes on."""
    in_s: float
    """Seconds until then."""

    def __str__(self) -> str:
        """The sentence about it."""
        return (
            f"grows by {self.bytes_a_step / _MIB:.3g} MiB a step: it holds "
            f"{self.held_bytes / _GIB:.3g} of {self.limit_bytes / _GIB:.3g} GiB and runs out near "
            f"step {self.step}, in {self.in_s / 3600:.2g} h"
        )


def steady_growth(levels: Sequence[Level], limit_bytes: int | None, steps: int) -> Growth | None:
    """Finds a growth that goes on and would reach the limit before the training's end.

    The levels are cut into six equal parts, of which each counts by its lowest level: what
    goes up and comes down again (garbage, a cache, a validation) has the same lowest level
    every time. They grow if every part is above the one before, each rise is at least 0.4 of the
    median rise (a single jump is not a growth), the last two rises are at least 0.6 of the first
    two (a warm-up slows down), and the newest level is the highest ever. All that must have been
    so a part earlier too. The slope is the median of the slopes between all pairs of parts (Theil
    1950, Sen 1968).

    Args:
        levels: in order, from the end of the warm-up on.
        limit_bytes: what may be held; None where it is not known, and nothing is said.
        steps: optimizer steps of the whole training.

    >>> levels = [Level(n, 2.0 * n, (100 + n) << 20) for n in range(60)]
    >>> print(steady_growth(levels, 1 << 30, steps=5000))
    grows by 1 MiB a step: it holds 0.155 of 1 GiB and runs out near step 924, in 0.48 h
    >>> steady_growth(levels, 1 << 30, steps=900) is None
    True
    """
    if limit_bytes is None or len(levels) < _READINGS_MIN or levels[-1].step <= levels[0].step:
        return None
    earlier = levels[: len(levels) * (_PARTS - 1) // _PARTS]
    if not (_grows(levels, limit_bytes) and _grows(earlier, limit_bytes)):
        return None
    lowest = _lowest_of_parts(levels)
    slopes = [
        (b.held_bytes - a.held_bytes) / (b.step - a.step)
        for a, b in combinations(lowest, 2)
        if b.step > a.step
    ]
    if not slopes:
        return None
    return _extrapolated(levels, statistics.median(slopes), limit_bytes, steps)


def thinned(levels: Sequence[Level], most: int = 240) -> list[Level]:
    """Every second level once there are too many, so that the whole training stays in sight."""
    return list(levels) if len(levels) <= most else list(levels[::2])


def _lowest_of_parts(levels: Sequence[Level]) -> list[Level]:
    bounds = [len(levels) * part // _PARTS for part in range(_PARTS + 1)]
    return [
        min(levels[first:last], key=lambda level: level.held_bytes)
        for first, last in zip(bounds, bounds[1:])
    ]


def _grows(levels: Sequence[Level], limit_bytes: int) -> bool:
    lowest = _lowest_of_parts(levels)
    rises = [b.held_bytes - a.held_bytes for a, b in zip(lowest, lowest[1:])]
    least = max(_LEAST_BYTES, _LEAST_SHARE_OF_LIMIT * limit_bytes)
    if min(rises) <= 0 or sum(rises) < least:
        return False
    even = min(rises) >= _EVEN * statistics.median(rises)
    steady = sum(rises[-2:]) >= _STEADY * sum(rises[:2])
    return even and steady and _is_highest_now(levels)


def _is_highest_now(levels: Sequence[Level]) -> bool:
    part = len(levels) // _PARTS
    newest = max(level.held_bytes for level in levels[-part:])
    return newest >= max(level.held_bytes for level in levels[:-part])


def _extrapolated(
    levels: Sequence[Level], slope: float, limit_bytes: int, steps: int
) -> Growth | None:
    first, last = levels[0], levels[-1]
    left = max(0.0, (limit_bytes - last.held_bytes) / slope)
    step = last.step + int(left)
    if step >= steps:
        return None
    step_s = (last.at_s - first.at_s) / (last.step - first.step)
    return Growth(slope, last.held_bytes, limit_bytes, step, left * step_s)
