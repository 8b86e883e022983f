"""Whether a run goes on after an attempt has ended: pure rules over the history of attempts.

There is no clock and no file here, so that a simulation of months can drive the same rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hpcjobs.run.verdict import Cause

Kind = Literal["done", "restart", "later", "stop"]
"""``restart``: in place, in the same allocation. ``later``: in another allocation."""

FAILURES: frozenset[Cause] = frozenset({"crash", "hang", "unknown"})
"""What may be the run's own fault."""
LOST: frozenset[Cause] = frozenset({"preempted", "time_limit", "stopped", "node"})
"""The allocation is gone, or unfit."""
FINAL: frozenset[Cause] = frozenset({"cancelled", "storage_full", "card_memory", "never"})
"""Would end alike again, or a person wanted the end."""

BACKOFF_S = (0.0, 5.0, 30.0, 120.0)
"""Pause before a restart by the number of failures without progress: a crash is tried again at
once; what comes back may be a server or a file system that needs a moment."""


@dataclass(frozen=True)
class AttemptEnd:
    """How one attempt ended, and how far the committed checkpoints had come."""

    cause: Cause
    root: str | None = None
    """The failure without what differs from time to time."""
    step_before: int = 0
    """Optimizer steps in the newest committed checkpoint when the attempt began."""
    step_after: int = 0
    """And when it ended."""
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Limits:
    """How often a run may end without progress before it stops."""

    failures: int = 3
    """Crashes, hangs and unknown ends."""
    interruptions: int = 5
    """Lost allocations and stop signals; separate, since they are not the run's fault."""


@dataclass(frozen=True)
class Decision:
    """What follows, and why."""

    kind: Kind
    cause: Cause
    reason: str
    backoff_s: float = 0.0


def decide(history: Sequence[AttemptEnd], limits: Limits = Limits()) -> Decision:
    """Decides after the last attempt of ``history`` has ended.

    Failures and interruptions have budgets of their own. Progress, a committed checkpoint above
    every earlier one, fills both again; nothing else does, neither another root nor another
    node, so that a run without progress always comes to an end.

    Args:
        history: the attempts since the run was begun, or was stopped for good and begun again
            by a person; the oldest first, at least one.
        limits: the budgets.
    """
    last = history[-1]
    if last.cause == "done":
        return Decision("done", last.cause, "finished")
    if last.cause in FINAL:
        return Decision("stop", last.cause, _FINAL_REASONS[last.cause])
    since = since_progress(history)
    failures = [end for end in since if end.cause in FAILURES]
    if last.cause in FAILURES:
        return _after_failure(last, failures, limits)
    interruptions = len(since) - len(failures)
    if interruptions >= limits.interruptions:
        causes = ", ".join(sorted({end.cause for end in since}))
        reason = f"{interruptions} interruptions without a new checkpoint ({causes})"
        return Decision("stop", last.cause, reason)
    if last.cause in LOST:
        return Decision("later", last.cause, _LOST_REASONS[last.cause])
    return Decision("restart", last.cause, "a signal stopped the processes; the allocation stays")


def since_progress(history: Sequence[AttemptEnd]) -> list[AttemptEnd]:
    """The attempts after the last one that made progress: they count against the budgets.

    The mark is the highest step that was ever committed: a checkpoint that was found broken and
    is written again is no progress.
    """
    highest = history[0].step_before
    first = 0
    for index, end in enumerate(history):
        highest = max(highest, end.step_before)
        if end.step_after > highest:
            highest, first = end.step_after, index + 1
    return list(history[first:])


def _after_failure(last: AttemptEnd, failures: Sequence[AttemptEnd], limits: Limits) -> Decision:
    count = len(failures)
    if count == 0:
        return Decision("restart", last.cause, "it had made progress")
    if count < limits.failures:
        backoff_s = BACKOFF_S[min(count, len(BACKOFF_S)) - 1]
        reason = f"failure {count} of {limits.failures} without a new checkpoint"
        return Decision("restart", last.cause, reason, backoff_s)
    roots = {end.root for end in failures if end.root}
    words = "the same failure" if len(roots) == 1 else f"{len(roots)} different failures"
    reason = f"{words} {count} times without a new checkpoint" if roots else (
        f"{count} failures without a new checkpoint"
    )  # fmt: skip
    return Decision("stop", last.cause, reason)


_FINAL_REASONS = {
    "cancelled": "the job was cancelled",
    "storage_full": "the disk is full",
    "card_memory": "a card's memory is too small for this configuration",
    "never": "it would fail again",
}
_LOST_REASONS = {
    "preempted": "the job was preempted",
    "time_limit": "the time limit is near",
    "stopped": "the job was asked to save and end",
    "node": "a node is lost or unfit",
}
