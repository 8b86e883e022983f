"""Why the neighbours of a choice were not taken."""

import math
from collections.abc import Sequence

from planner.plan import Ask, Rejected
from planner.prediction import GIB
from planner.search.candidate import Candidate, neighbours
from planner.search.evaluate import Evaluator, Group
from planner.search.limits import Limits
from planner.search.options import options_of
from planner.search.table import TIE


def rejected_of(
    ask: Ask,
    evaluator: Evaluator,
    chosen: Candidate,
    others: Sequence[Candidate],
    limits: Limits,
) -> tuple[Rejected, ...]:
    """Every neighbour with the reason against it; ``others`` are the best of other offers."""
    best = evaluator.candidate(chosen, ask.global_batch)
    found = []
    for change, candidate in neighbours(ask, chosen, others):
        reason = reason_against(ask, evaluator, best, candidate, limits)
        if candidate.offer != chosen.offer:
            reason += f" at best ({candidate.layout_words})"
        found.append(Rejected(change, reason))
    return tuple(found)


def reason_against(
    ask: Ask, evaluator: Evaluator, best: Group, candidate: Candidate, limits: Limits
) -> str:
    """What speaks against one candidate; the first that applies."""
    if not candidate.keeps(ask.global_batch):
        together = candidate.micro_batch * candidate.gpus
        return f"{together} samples a pass do not divide the global batch of {ask.global_batch}"
    group = evaluator.candidate(candidate, ask.global_batch)
    if (excess := float(group.excess_bytes[0])) > 0:
        return f"out of memory by {gib(excess)} at p95"
    verdict = _limit_missed(ask, group) or _comparison(ask, best, group)
    if outside := _not_asked(ask, candidate, limits):
        return f"{outside}; {verdict}"
    return verdict


def _not_asked(ask: Ask, candidate: Candidate, limits: Limits) -> str | None:
    if candidate.option not in options_of(ask):
        return "not among the choices that were asked for"
    if candidate.micro_batch not in ask.micro_batches:
        return "the micro batch was given"
    if limits.gpus not in (None, candidate.gpus):
        return "the number of cards was given"
    accumulation = ask.global_batch // (candidate.micro_batch * candidate.gpus)
    if limits.grad_accum not in (None, accumulation):
        return "the accumulation was given"
    return None


def _limit_missed(ask: Ask, group: Group) -> str | None:
    late = float(group.wall_p95_hours[0]) - (ask.deadline_hours or math.inf)
    if late > 0:
        return f"misses the deadline by {duration(late)} at p95"
    over = float(group.cost_p95[0]) - (ask.budget or math.inf)
    if over > 0 and group.cost is not None:
        return f"over the budget by {over:.2f} {group.cost.currency} at p95"
    return None


def _comparison(ask: Ask, best: Group, group: Group) -> str:
    """How it does in the objective."""
    ratio = ratio_of(ask, best, group)
    word, unit, alike = ("takes", " the time", "the same time")
    if ask.objective == "cheapest":
        word, unit, alike = ("costs", "", "the same")
    unknown = ""
    if ask.objective == "cheapest" and math.isnan(float(best.cost_p50[0] + group.cost_p50[0])):
        word, unit, alike = "takes", " the GPU-hours", "the same GPU-hours"
        unknown = "its price is not known; "
    if abs(ratio - 1) <= TIE:
        return f"{unknown}{word} {alike} within 1 %"
    return f"{unknown}{word} {times(ratio)}{unit}"


def ratio_of(ask: Ask, best: Group, group: Group) -> float:
    """What the objective makes small, relative to the choice; GPU-hours where prices lack."""
    if ask.objective == "fastest":
        return float(group.time_key[0] / best.time_key[0])
    ratio = float(group.cost_p50[0] / best.cost_p50[0])
    return float(group.card_time[0] / best.card_time[0]) if math.isnan(ratio) else ratio


def times(ratio: float) -> str:
    """A ratio with as many digits as matter.

    >>> times(1.234), times(2.31), times(14.2)
    ('1.23x', '2.3x', '14x')
    """
    digits = 2 if ratio < 1.95 else 1 if ratio < 10 else 0
    return f"{ratio:.{digits}f}x"


def gib(size: float) -> str:
    """Bytes in GiB.

    >>> gib(3.3 * 2**30)
    '3.3 GiB'
    """
    return f"{size / GIB:.1f} GiB" if size >= 0.05 * GIB else f"{size / GIB:.2f} GiB"


def duration(hours: float) -> str:
    """Hours for people.

    >>> duration(0.25), duration(5.04), duration(120)
    ('15 min', '5.0 h', '120 h')
    """
    if hours < 1:
        return f"{max(1, round(60 * hours))} min"
    return f"{hours:.1f} h" if hours < 100 else f"{hours:.0f} h"
