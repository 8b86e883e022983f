"""What to change where nothing fits the ask: the nearest plans that would."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from msgspec import structs

from planner.cards import card_names, card_of
from planner.plan import Ask, CardOffer
from planner.prediction import GIB
from planner.search.evaluate import Evaluator, Group
from planner.search.explain import duration, gib
from planner.search.grid import grid_of
from planner.search.limits import Limits
from planner.search.options import options_of
from planner.search.table import Table, order_of, table_of, within
from planner.search.unlock import EXPANDABLE
from planner.workload import Lengths, Workload

_SHOWN = 3
"""Remedies that are named at most."""
_ZERO = ("zero0", "zero1", "zero2", "zero3")
_ALL_OFFLOADS = ("none", "optimizer", "optimizer_params")


@dataclass(frozen=True, slots=True)
class Remedy:
    """A changed question."""

    name: str
    ask: Ask


def groups_of(ask: Ask, evaluator: Evaluator, limits: Limits) -> list[Group]:
    """Evaluates the whole grid of an ask."""
    groups = []
    for offer in ask.offers:
        layout = grid_of(ask, offer, limits)
        if not np.size(layout.gpus):
            continue
        groups += [evaluator.grid(offer, option, layout) for option in options_of(ask)]
    return groups


def nearest(ask: Ask, evaluator: Evaluator, table: Table, limits: Limits) -> str:
    """Says what stands in the way, and names the first changes that help."""
    found: dict[str, str] = {}
    for remedy in _remedies(ask, table, limits):
        plan = _answer(remedy, evaluator, limits)
        if plan is not None:
            found.setdefault(plan, remedy.name)
        if len(found) == _SHOWN:
            break
    problem = _problem(ask, table)
    if not found:
        return f"{problem}; no change that the planner knows makes it possible"
    instead = "; ".join(f"{name}: {plan}" for plan, name in found.items())
    return f"{problem}. Possible instead: {instead}"


def _problem(ask: Ask, table: Table) -> str:
    if not np.any(table.fits):
        row = int(np.argmin(table.excess_bytes))
        choice = table.choice(row)
        memory = choice.prediction.memory
        binding = choice.prediction.binding
        usable = card_of(choice.gpu).usable_bytes
        return (
            f"no configuration fits into memory: the smallest needs "
            f"{gib(float(memory.unlimited_p95_bytes))} at p95 of the {gib(usable)} of a "
            f"{choice.gpu}, {gib(float(memory.components[binding]))} of them {binding}"
        )
    fit = np.flatnonzero(table.fits)
    hours = float(np.min(table.wall_p95_hours[fit]))
    cost = float(np.min(table.cost_p95[fit]))
    if np.isnan(hours):
        return "hours and cost are not known without the number of samples: write planner.samples"
    if ask.deadline_hours is not None and hours > ask.deadline_hours:
        return (
            f"the deadline of {ask.deadline_hours:g} h cannot be met: the fastest configuration "
            f"takes {duration(hours)} at p95"
        )
    if ask.budget is not None and not cost <= ask.budget:
        least = "its price is not known" if np.isnan(cost) else f"the cheapest costs {cost:.2f}"
        return f"the budget of {ask.budget:g} is too small: {least} at p95"
    return "no configuration meets both the deadline and the budget"


def _remedies(ask: Ask, table: Table, limits: Limits) -> Iterator[Remedy]:
    """From the cheapest change to the dearest."""
    if np.any(table.fits):
        yield from _more_time_or_money(ask, table)
    if not ask.workload.expandable_segments:
        grown = structs.replace(ask.workload, expandable_segments=True)
        yield Remedy(EXPANDABLE, replace(ask, workload=grown))
    if not set(ask.losses) & {"chunked", "fused"}:
        yield Remedy("chunked cross-entropy", replace(ask, losses=("chunked",)))
    if True not in ask.grad_ckpt:
        yield Remedy("checkpointing", replace(ask, grad_ckpt=(True,)))
    if 1 not in ask.micro_batches:
        yield Remedy("micro batch 1", replace(ask, micro_batches=(1,)))
    if not set(_ZERO) <= set(ask.shardings) and ask.workload.sharding not in ("fsdp", "none"):
        yield Remedy("ZeRO-3", replace(ask, shardings=("zero3",)))
    if "optimizer" not in ask.offloads:
        stages = ("zero1", "zero2", "zero3")
        offload = replace(ask, shardings=stages, offloads=("optimizer",))
        yield Remedy("optimizer offload", offload)
    yield from _more_cards(ask, limits)
    yield from _other_cards(ask)
    yield from _other_training(ask)
    everything = replace(
        ask,
        losses=("chunked",),
        grad_ckpt=(True,),
        micro_batches=(1,),
        shardings=_ZERO,
        offloads=_ALL_OFFLOADS,
    )
    yield Remedy("all of chunked cross-entropy, checkpointing, ZeRO-3 and offload", everything)


def _more_time_or_money(ask: Ask, table: Table) -> Iterator[Remedy]:
    fit = np.flatnonzero(table.fits)
    if ask.deadline_hours is not None:
        free = replace(ask, deadline_hours=None, objective="fastest")
        affordable = within(free, table)
        if np.any(affordable):
            hours = float(np.min(table.wall_p95_hours[affordable]))
            if hours > ask.deadline_hours:
                yield Remedy(f"a deadline of {np.ceil(10 * hours) / 10:g} h", free)
    if ask.budget is not None:
        free = replace(ask, budget=None, objective="cheapest")
        in_time = np.flatnonzero(within(free, table))
        costs = table.cost_p95[in_time if in_time.size else fit]
        if in_time.size and not np.all(np.isnan(costs)) and np.nanmin(costs) > ask.budget:
            yield Remedy(f"a budget of {np.ceil(np.nanmin(costs)):g}", free)


def _more_cards(ask: Ask, limits: Limits) -> Iterator[Remedy]:
    if limits.gpus is not None or limits.nodes is not None:
        return
    for factor in (2, 4, 8, 16):
        offers = tuple(replace(offer, max_gpus=factor * offer.max_gpus) for offer in ask.offers)
        yield Remedy(f"{factor} times as many cards", replace(ask, offers=offers))


def _other_cards(ask: Ask) -> Iterator[Remedy]:
    """The next larger cards, with the nodes of the largest that was offered."""
    most = max(ask.offers, key=lambda offer: card_of(offer.gpu).usable_bytes)
    limit = card_of(most.gpu).usable_bytes
    cards = [card for card in map(card_of, card_names()) if card.usable_bytes > limit]
    for card in sorted(cards, key=lambda card: (card.usable_bytes, card.price_ondemand or 1e9)):
        offer = CardOffer(card.name, most.gpus_per_node, most.max_gpus)
        size = f"{card.memory_gib:g} GB"
        yield Remedy(f"cards of {size} ({card.name})", replace(ask, offers=(offer,)))


def _other_training(ask: Ask) -> Iterator[Remedy]:
    """Changes of what is trained come last: they are no longer the run that was asked for."""
    workload = ask.workload
    for kind in {"full": ("lora", "qlora"), "lora": ("qlora",)}.get(workload.method.kind, ()):
        changed = structs.replace(workload, method=structs.replace(workload.method, kind=kind))
        yield Remedy({"lora": "LoRA", "qlora": "QLoRA"}[kind], replace(ask, workload=changed))
    longest = max(workload.seq_len.values)
    floor = int((workload.images_per_sample or 0) * (workload.image_tokens or 0))
    length = longest // 2
    while length >= max(128, floor + 1):
        yield Remedy(
            f"at most {length} tokens a sample", replace(ask, workload=cut(workload, length))
        )
        length //= 2


def cut(workload: Workload, longest: int) -> Workload:
    """The workload with longer samples cut."""
    lengths = workload.seq_len
    values = tuple(min(value, longest) for value in lengths.values)
    return structs.replace(workload, seq_len=Lengths(values=values, weights=lengths.weights))


def _answer(remedy: Remedy, evaluator: Evaluator, limits: Limits) -> str | None:
    """The best plan of a changed question in one phrase; None where there is none."""
    evaluator = evaluator.with_workload(remedy.ask.workload)
    table = table_of(groups_of(remedy.ask, evaluator, limits))
    rows = order_of(remedy.ask, table, np.flatnonzero(within(remedy.ask, table)))
    if not rows.size:
        return None
    choice = table.choice(int(rows[0]))
    prediction = choice.prediction
    figures = [f"{float(prediction.memory.process_p95_bytes) / GIB:.1f} GiB"]
    if prediction.hours is not None:
        figures.append(duration(float(prediction.hours.hours_p50)))
    if prediction.cost is not None and not math.isnan(float(prediction.cost.cost_p50)):
        figures.append(f"{float(prediction.cost.cost_p50):.0f} {prediction.cost.currency}")
    group = table.groups[int(table.group[int(rows[0])])]
    words = group.candidate(int(table.place[int(rows[0])])).words
    return f"{words} ({', '.join(figures)})"
