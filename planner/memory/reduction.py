"""When ZeRO's bucket of gradients is full in the middle of the backward."""

from dataclasses import dataclass
from functools import lru_cache

from planner.memory.recorded import Hooks


@dataclass(frozen=True, slots=True)
class Moment:
    """A bucket is reduced: its gradients are copied once more, into one flat tensor."""

    done: int
    """Layers whose backward is over, from the top."""
    height: tuple[int, int, int]
    """Of the layer that the backward is in."""
    elements: int
    """Gradients in the bucket."""


@dataclass(frozen=True, slots=True)
class Reduction:
    """The moments that can be the highest, and what is left for the end."""

    moments: tuple[Moment, ...]
    pending: int
    """Elements that are reduced when the backward is over."""
    alone: bool
    """Whether that is one parameter too large for the bucket, with a gradient of its own."""


@lru_cache(maxsize=1024)
def reduction_of(
    bucket: int, head: int, layers: tuple[tuple[int, Hooks], ...], embedding: int, rest: int
) -> Reduction:
    """Follows the bucket through a backward (stage_1_and_2.py and stage3.py reduce it so).

    Args:
        bucket: elements that it takes.
        head: elements of the output head and whatever else is ready before the layers.
        layers: counts and hooks, from the last layer to the first.
        embedding: elements of the embedding, one parameter.
        rest: elements of many parameters that are ready after the layers: projector, towers.

    >>> layer = ((4, (0, 1, 0)), (8, (0, 2, 0)))
    >>> reduction_of(10, 0, ((2, layer),), 0, 0)
    Reduction(moments=(Moment(done=1, height=(0, 1, 0), elements=8),), pending=8, alone=False)
    """
    moments: list[Moment] = []
    pending, done = head, 0
    for count, hooks in layers:
        for _ in range(count):
            before = 0
            for elements, height in hooks:
                size = elements - before
                before = elements
                if pending + size > bucket and pending:
                    moments.append(Moment(done, height, pending))
                    pending = 0
                pending += size
            done += 1
    if embedding > bucket:
        return Reduction(_highest(moments), embedding, True)
    return Reduction(_highest(moments), min(pending + embedding + rest, bucket), False)


def _highest(moments: list[Moment]) -> tuple[Moment, ...]:
    """Without those that an earlier one exceeds: fewer activations are left later."""
    kept: list[Moment] = []
    for moment in moments:
        if not any(_exceeds(earlier, moment) for earlier in kept):
            kept.append(moment)
    return tuple(kept)


def _exceeds(one: Moment, other: Moment) -> bool:
    heights = zip(one.height, other.height, strict=True)
    return one.elements * 1.001 >= other.elements and all(a >= b for a, b in heights)
