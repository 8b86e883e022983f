"""One configuration before it is evaluated, and the ones next to it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from planner.layout import Layout
from planner.plan import Ask, CardOffer
from planner.search.grid import spreads
from planner.search.limits import Limits
from planner.search.options import Option, stage_name

OFFLOAD_NAMES = {
    "none": "no offload",
    "optimizer": "optimizer offload",
    "optimizer_params": "optimizer and weight offload",
}
LOSS_NAMES = {
    "fp32": "fp32 cross-entropy",
    "no_upcast": "cross-entropy in two bytes",
    "chunked": "chunked cross-entropy",
    "fused": "fused cross-entropy",
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a choice says, without figures."""

    offer: CardOffer
    option: Option
    micro_batch: int
    gpus: int
    gpus_per_node: int

    def keeps(self, global_batch: int) -> bool:
        """Whether the global batch comes out exactly."""
        return global_batch % (self.micro_batch * self.gpus) == 0

    def layout(self, global_batch: int) -> Layout:
        """Its numbers, as arrays of one."""
        accumulation = global_batch // (self.micro_batch * self.gpus)
        numbers = (self.micro_batch, accumulation, self.gpus, self.gpus_per_node)
        return Layout(*(np.array([float(number)]) for number in numbers))

    def places_in(self, layout: Layout, global_batch: int) -> NDArray[np.int64]:
        """Where its numbers stand in a layout of many."""
        return np.flatnonzero(
            (np.asarray(layout.micro_batch) == self.micro_batch)
            & (np.asarray(layout.gpus) == self.gpus)
            & (np.asarray(layout.gpus_per_node) == self.gpus_per_node)
            & (np.asarray(layout.grad_accum) * self.micro_batch * self.gpus == global_batch)
        )

    @property
    def words(self) -> str:
        """The configuration in one phrase."""
        return f"{self.gpus} x {self.offer.gpu}, {self._settings}"

    @property
    def layout_words(self) -> str:
        """The same without the card."""
        return f"{self.gpus} card{'s' if self.gpus > 1 else ''}, {self._settings}"

    @property
    def _settings(self) -> str:
        option = self.option
        parts = [stage_name(option.sharding)]
        if option.offload != "none":
            parts.append(OFFLOAD_NAMES[option.offload])
        parts.append(f"micro batch {self.micro_batch}")
        parts.append("checkpointing" if option.grad_ckpt else "no checkpointing")
        if option.loss != "fp32":
            parts.append(LOSS_NAMES[option.loss])
        return ", ".join(parts)


def neighbours(
    ask: Ask, chosen: Candidate, others: Sequence[Candidate]
) -> Iterator[tuple[str, Candidate]]:
    """Candidates that differ in one thing, with the name of the difference.

    Args:
        ask: what may be varied.
        chosen: the configuration in the middle.
        others: the best candidate of every other offer: a card is compared at its best.
    """
    option = chosen.option
    for step in (-1, 1):
        if (staged := option.next_stage(step)) is not None:
            yield stage_name(staged.sharding), replace(chosen, option=staged)
    if option.offload != "none":
        kept = replace(option, offload="none")
        yield OFFLOAD_NAMES["none"], replace(chosen, option=kept)
    yield (
        f"micro batch {2 * chosen.micro_batch}",
        replace(chosen, micro_batch=2 * chosen.micro_batch),
    )
    if chosen.micro_batch > 1 and chosen.micro_batch % 2 == 0:
        half = chosen.micro_batch // 2
        yield f"micro batch {half}", replace(chosen, micro_batch=half)
    word = "off" if option.grad_ckpt else "on"
    yield (
        f"checkpointing {word}",
        replace(chosen, option=replace(option, grad_ckpt=not option.grad_ckpt)),
    )
    yield from _other_counts(ask, chosen)
    for other in others:
        yield offer_name(other.offer, chosen.offer), other


def _other_counts(ask: Ask, chosen: Candidate) -> Iterator[tuple[str, Candidate]]:
    counts = sorted({s.gpus for s in spreads(ask.global_batch, chosen.offer, Limits())})
    if chosen.gpus not in counts:
        return
    place = counts.index(chosen.gpus)
    for other in (place - 1, place + 1):
        if 0 <= other < len(counts):
            gpus = counts[other]
            label = f"{gpus} card{'s' if gpus > 1 else ''}"
            yield label, _on(chosen, chosen.offer, gpus)


def _on(chosen: Candidate, offer: CardOffer, gpus: int) -> Candidate:
    found = spreads(gpus, offer, Limits(gpus=gpus))
    per_node = found[0].gpus_per_node if found else min(gpus, offer.gpus_per_node)
    return replace(chosen, offer=offer, gpus=gpus, gpus_per_node=per_node)


def offer_name(offer: CardOffer, beside: CardOffer) -> str:
    """A card by its name, and by what else tells it from another offer of the same card."""
    words = [offer.gpu]
    if offer.preemptible:
        words.append("preemptible")
    elif beside.gpu == offer.gpu and beside.preemptible:
        words.append("on demand")
    if offer.partition is not None:
        words.append(f"partition {offer.partition}")
    return ", ".join(words)
