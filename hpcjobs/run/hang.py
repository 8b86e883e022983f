"""A training that stands still: who is to blame, and who only waits for them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hpcjobs.run.hang_report import AT_THE_END, GONE, RankView, read_reports
from hpcjobs.run.layout import Attempt
from hpcjobs.run.verdict import Verdict

_STOPPED = ("T", "t")
_NUMBERS = re.compile(r":\d+|\b\d+\b")


@dataclass(frozen=True)
class Blame:
    """The outcome; no culprit means that the evidence names none."""

    culprits: tuple[int, ...]
    why: str


def blame(views: Sequence[RankView], world_size: int) -> Blame:
    """Finds the ranks that the others wait for.

    A process that is stopped or has gone cannot go on, whatever the others do. Else it is
    whoever is behind: all ranks pass the same points, and none passes a collective that another
    has not reached. Where nobody is behind, one that waits for a device or a file system, or
    is elsewhere than the others that wait for it. Where nothing tells them apart, nobody is named.

    Args:
        views: the ranks that are known, in any order.
        world_size: ranks in all; one without a view may be the culprit.
    """
    living = [view for view in views if view.state != GONE]
    if stopped := [view for view in living if view.state in _STOPPED]:
        return _named(stopped, "stopped by a signal or a debugger")
    if gone := [view for view in views if view.state == GONE and view.place != AT_THE_END]:
        return _named(gone, "ended while others wait for it")
    missing = sorted(set(range(world_size)) - {view.rank for view in views})
    if missing:
        return Blame((), f"nothing is known of {_ranks(missing)}")
    if not living:
        return Blame((), "every rank has ended")
    if world_size == 1:
        return _named(views, "silent")
    least = min(view.place for view in living)
    last = [view for view in living if view.place == least]
    elsewhere = _elsewhere(last)
    if len(last) < len(views):
        return _named(elsewhere or last, "behind the others")
    if blocked := _blocked(last):
        return _named(blocked, "waiting for a device or a file system")
    if elsewhere:
        return _named(elsewhere, "not where the others wait for it")
    return Blame((), "nobody is behind")


def _elsewhere(views: Sequence[RankView]) -> list[RankView]:
    """Those of several that do not wait, where others of them do and every one is told apart."""
    if any(view.waits is None for view in views):
        return []
    return [v for v in views if not v.waits] if any(view.waits for view in views) else []


def _blocked(views: Sequence[RankView]) -> list[RankView]:
    blocked = [view for view in views if view.state == "D"]
    return blocked if len(blocked) < len(views) else []


def _named(views: Sequence[RankView], why: str) -> Blame:
    return Blame(tuple(sorted(view.rank for view in views)), why)


def conclude_hang(attempt: Attempt, world_size: int) -> Verdict | None:
    """The attempt's verdict where its agents found a hang; None where they found none."""
    reports = read_reports(attempt)
    if not reports:
        return None
    views = {view.rank: view for report in reports for view in report.views}
    found = blame(list(views.values()), world_size)
    if not found.culprits:
        return _nobody(views, found, attempt)
    culprits = [views[rank] for rank in found.culprits]
    others = [rank for rank in range(world_size) if rank not in found.culprits]
    told = "; ".join(_describe(view) for view in culprits)
    waiting = f"; {_ranks(others)} waited" if others else ""
    reason = f"hang: {told} ({found.why}){waiting}; stacks in {attempt.stacks(culprits[0].rank)}"
    hosts = {view.host for view in culprits}
    return Verdict(
        "failed",
        reason,
        rank=culprits[0].rank,
        cause="hang",
        root=_root(culprits[0]),
        node=hosts.pop() if len(hosts) == 1 else None,
    )


def _nobody(views: Mapping[int, RankView], found: Blame, attempt: Attempt) -> Verdict:
    """Says that the evidence names no rank; those that wait are never made out to be at fault."""
    told = "; ".join(_describe(views[rank]) for rank in sorted(views)[:4])
    more = f"; and {len(views) - 4} more" if len(views) > 4 else ""
    meaning = (
        ": a deadlock inside a collective, or a fault of a card or the network"
        if found.why == "nobody is behind"
        else ""
    )
    reason = f"hang, culprit unknown: {found.why}{meaning}; {told}{more}; stacks in {attempt.path}"
    phases = sorted({view.beat.phase for view in views.values() if view.beat is not None})
    return Verdict(
        "failed",
        reason,
        cause="hang",
        root=f"hang: culprit unknown in {' and '.join(phases) or 'start'}",
    )


def _describe(view: RankView) -> str:
    where = f"rank {view.rank} on {view.host}"
    if view.beat is None:
        return f"{where} did not begin within {view.silent_s:.0f} s"
    beat, details = view.beat, []
    if view.frame is not None:
        details.append(f"in {view.frame}")
    if view.state in (*_STOPPED, "D", GONE):
        details.append(f"state {view.state}")
    details += [f"loader {loader}" for loader in view.loaders[:2]]
    doing = f" ({', '.join(details)})" if details else ""
    step = f"after step {beat.step}" if beat.lap else "before the first step"
    return f"{where} silent for {view.silent_s:.0f} s in {beat.phase} {step}{doing}"


def _root(view: RankView) -> str:
    """What can recur on another rank, node or step: the phase and the function."""
    phase = view.beat.phase if view.beat is not None else "start"
    if view.state in (*_STOPPED, GONE):
        return f"hang: {phase}, {'stopped' if view.state in _STOPPED else 'ended'}"
    if view.loaders:
        return f"hang: {phase}, loader {_NUMBERS.sub('', view.loaders[0]).strip()}"
    if view.frame is None:
        return f"hang: {phase}"
    return f"hang: {phase} in {view.frame.function} ({view.frame.place})"


def _ranks(numbers: Sequence[int]) -> str:
    """Names ranks, many of them by their first and last.

    >>> _ranks([3]), _ranks([0, 1, 2]), _ranks(range(16))
    ('rank 3', 'ranks 0, 1 and 2', '16 ranks from 0 to 15')
    """
    words = [str(number) for number in numbers]
    if len(words) == 1:
        return f"rank {words[0]}"
    if len(words) > 8:
        return f"{len(words)} ranks from {words[0]} to {words[-1]}"
    return f"ranks {', '.join(words[:-1])} and {words[-1]}"
