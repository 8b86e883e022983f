"""Numbers of cards and micro batches that keep a global batch exactly."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.errors import PlannerError
from planner.layout import Layout
from planner.plan import Ask, CardOffer
from planner.search.limits import Limits


@dataclass(frozen=True, slots=True)
class Spread:
    """Cards over nodes, the same number on each."""

    gpus: int
    gpus_per_node: int

    @property
    def nodes(self) -> int:
        """Nodes in use."""
        return self.gpus // self.gpus_per_node


def grid_of(ask: Ask, offer: CardOffer, limits: Limits) -> Layout:
    """All layouts of one offer whose micro batch x accumulation x cards is the global batch."""
    rows = [
        (micro, ask.global_batch // (micro * spread.gpus), spread.gpus, spread.gpus_per_node)
        for spread in spreads(ask.global_batch, offer, limits)
        for micro in sorted(set(ask.micro_batches))
        if ask.global_batch % (micro * spread.gpus) == 0
    ]
    if limits.grad_accum is not None:
        rows = [row for row in rows if row[1] == limits.grad_accum]
    columns: NDArray[np.float64] = np.array(rows, dtype=np.float64).reshape(-1, 4).T
    return Layout(*columns)


def spreads(global_batch: int, offer: CardOffer, limits: Limits) -> list[Spread]:
    """Numbers of cards that divide the global batch, on as few nodes as hold them evenly.

    >>> offer = CardOffer("A100-SXM4-80GB", gpus_per_node=6, max_gpus=18)
    >>> [(s.gpus, s.nodes) for s in spreads(48, offer, Limits())]
    [(1, 1), (2, 1), (3, 1), (4, 1), (6, 1), (8, 2), (12, 2)]
    """
    counts = [limits.gpus] if limits.gpus else divisors(global_batch)
    found = [_spread(gpus, offer, limits) for gpus in counts if gpus <= offer.max_gpus]
    return [spread for spread in found if spread is not None]


def _spread(gpus: int, offer: CardOffer, limits: Limits) -> Spread | None:
    fewest = math.ceil(gpus / offer.gpus_per_node)
    most = math.ceil(offer.max_gpus / offer.gpus_per_node)
    for nodes in range(fewest, min(2 * fewest, most) + 1):
        even = gpus % nodes == 0
        kept = limits.nodes in (None, nodes) and limits.gpus_per_node in (None, gpus // nodes)
        if even and kept:
            return Spread(gpus, gpus // nodes)
    return None


def divisors(number: int) -> list[int]:
    """All divisors, ascending.

    >>> divisors(12)
    [1, 2, 3, 4, 6, 12]
    """
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def refuse_inexact(ask: Ask, limits: Limits) -> None:
    """Refuses a global batch that no layout keeps exactly.

    Raises:
        PlannerError: names the nearest global batches that can be kept.
    """
    if ask.global_batch < 1:
        raise PlannerError(f"the global batch must be at least 1, not {ask.global_batch}")
    if any(np.size(grid_of(ask, offer, limits).gpus) for offer in ask.offers):
        return
    unit = _unit(ask, limits)
    if unit is None:
        raise PlannerError(
            f"no offer has that many cards ({limits.words}): raise planner.max_gpus or free the "
            f"number of cards"
        )
    low = ask.global_batch // unit * unit
    exactly = limits.grad_accum is not None
    near = [unit] if exactly else [batch for batch in (low, low + unit) if batch > 0]
    fixed = f" with {limits.words}" if limits.words else ""
    raise PlannerError(
        f"a global batch of {ask.global_batch} cannot be kept exactly{fixed} and micro batch "
        f"{' or '.join(map(str, sorted(set(ask.micro_batches))))}: the nearest that can are "
        f"{' and '.join(map(str, near))}"
    )


def _unit(ask: Ask, limits: Limits) -> int | None:
    """The smallest global batch of the fixed numbers; every multiple of it can be kept."""
    counts = [
        spread.gpus
        for offer in ask.offers
        for gpus in ([limits.gpus] if limits.gpus else range(1, offer.max_gpus + 1))
        for spread in spreads(gpus, offer, limits)
    ]
    if not counts:
        return None
    return min(counts) * min(ask.micro_batches) * (limits.grad_accum or 1)
