"""The cheapest change that makes the next option possible."""

from collections.abc import Iterator
from dataclasses import replace

from msgspec import structs

from planner.cards import card_of
from planner.plan import Ask, CardOffer, Unlock
from planner.search.candidate import LOSS_NAMES, OFFLOAD_NAMES, Candidate
from planner.search.evaluate import Evaluator, Group
from planner.search.explain import ratio_of
from planner.search.options import stage_name
from planner.search.table import TIE

EXPANDABLE = "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"
"""In the job's environment: less fragmentation where lengths vary."""


def unlock_of(ask: Ask, evaluator: Evaluator, chosen: Candidate) -> Unlock | None:
    """Tries changes in the order of their price for every option that memory forbids.

    One that makes the plan better wins; else the first that makes anything possible.
    """
    best = evaluator.candidate(chosen, ask.global_batch)
    found: list[tuple[float, Unlock]] = []
    for name, wanted in _next_options(ask, chosen):
        before = evaluator.candidate(wanted, ask.global_batch)
        if before.excess_bytes[0] <= 0:
            continue
        for change, after in _changed(ask, evaluator, wanted):
            if after.excess_bytes[0] <= 0:
                ratio = ratio_of(ask, best, after)
                found.append((ratio, _unlock(ask, change, name, before, after, ratio)))
                break
    return next((unlock for ratio, unlock in found if ratio < 1 - TIE), None) or (
        found[0][1] if found else None
    )


def _changed(ask: Ask, evaluator: Evaluator, wanted: Candidate) -> Iterator[tuple[str, Group]]:
    """What an option takes after each change, from the cheapest change to the dearest.

    Segments that grow in place cost nothing at all: they are one variable of the environment.
    """
    if not evaluator.workload.expandable_segments:
        grown = structs.replace(evaluator.workload, expandable_segments=True)
        yield EXPANDABLE, evaluator.with_workload(grown).candidate(wanted, ask.global_batch)
    for change, candidate in changes(ask, wanted):
        yield change, evaluator.candidate(candidate, ask.global_batch)


def _next_options(ask: Ask, chosen: Candidate) -> Iterator[tuple[str, Candidate]]:
    """What would make the run faster or cheaper if the memory were there."""
    wanted = [
        (f"micro batch {2 * chosen.micro_batch}", {"micro_batch": 2 * chosen.micro_batch}),
        ("no checkpointing", {"option": replace(chosen.option, grad_ckpt=False)}),
        (f"micro batch {4 * chosen.micro_batch}", {"micro_batch": 4 * chosen.micro_batch}),
    ]
    for name, difference in wanted:
        candidate = replace(chosen, **difference)  # type: ignore[arg-type]
        if candidate != chosen and candidate.keeps(ask.global_batch):
            yield name, candidate


def changes(ask: Ask, candidate: Candidate) -> Iterator[tuple[str, Candidate]]:
    """Changes that free memory, from the cheapest to the dearest."""
    option = candidate.option
    if option.loss in ("fp32", "no_upcast"):
        chunked = replace(option, loss="chunked")
        yield LOSS_NAMES["chunked"], replace(candidate, option=chunked)
    if not option.grad_ckpt:
        yield "checkpointing", replace(candidate, option=replace(option, grad_ckpt=True))
    if candidate.gpus > 1 and (higher := option.next_stage(1)) is not None:
        yield stage_name(higher.sharding), replace(candidate, option=higher)
    offloaded = replace(option, offload="optimizer")
    if option.offload == "none" and offloaded.is_possible:
        yield OFFLOAD_NAMES["optimizer"], replace(candidate, option=offloaded)
    for offer in _larger(ask, candidate.offer):
        if candidate.gpus <= offer.max_gpus:
            per_node = min(candidate.gpus_per_node, offer.gpus_per_node)
            if candidate.gpus % per_node == 0:
                yield offer.gpu, replace(candidate, offer=offer, gpus_per_node=per_node)


def _larger(ask: Ask, offer: CardOffer) -> list[CardOffer]:
    """Offers with more memory, the smallest first."""
    least = card_of(offer.gpu).usable_bytes
    sized = [(card_of(other.gpu).usable_bytes, other) for other in ask.offers]
    larger = [pair for pair in sized if pair[0] > least]
    return [other for _, other in sorted(larger, key=lambda pair: pair[0])]


def _unlock(ask: Ask, change: str, name: str, before: Group, after: Group, ratio: float) -> Unlock:
    freed = float(before.excess_bytes[0] - after.excess_bytes[0])
    word = "the cost" if ask.objective == "cheapest" else "the time"
    if abs(ratio - 1) <= TIE:
        effect = f"at {word} of the plan"
    else:
        effect = f"at {ratio:.2f} x {word} of the plan"
    return Unlock(change=change, frees_bytes=freed, then=f"{name} fits, {effect}")
