"""The attempts of a run as the retry rules see them, read back from the run directory."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from hpcjobs.node.job import Allocation
from hpcjobs.node.retry import AttemptEnd
from hpcjobs.run.errors import InputError
from hpcjobs.run.files import read_json, write_json
from hpcjobs.run.layout import Attempt, RunDir
from hpcjobs.run.verdict import Cause, Status, Verdict, read_verdict

_PERSONS_ACT = ("done", "never", "cancelled")
"""After such an end only a person starts the run again: then the budgets are full."""
_CAUSES: dict[Status, Cause] = {
    "done": "done",
    "checkpointed": "stopped",
    "failed": "crash",
    "never": "never",
    "cancelled": "cancelled",
    "unknown": "unknown",
}


@dataclass(frozen=True)
class Start:
    """What was so when an attempt began."""

    step: int
    """Optimizer steps in the newest committed checkpoint."""
    job_id: str | None = None
    restarts: int = 0
    nodes: tuple[str, ...] = ()


def write_start(attempt: Attempt, start: Start) -> None:
    """Writes it into the attempt's directory."""
    write_json(attempt.start, asdict(start))


def read_start(attempt: Attempt) -> Start | None:
    """Reads it; None where it is missing or of another version."""
    try:
        value = read_json(attempt.start)
        return Start(**{**value, "nodes": tuple(value["nodes"])})
    except (InputError, TypeError, KeyError):
        return None


def read_history(run: RunDir, before: int, now: Start) -> list[AttemptEnd]:
    """The ends of all attempts below number ``before`` that count, the oldest first.

    Args:
        run: the run.
        before: the attempt that has just begun or ended.
        now: what was so when it began.
    """
    numbers = [number for number in run.attempt_numbers() if number < before]
    starts = {number: read_start(run.attempt(number)) or Start(0) for number in numbers}
    starts[before] = now
    history: list[AttemptEnd] = []
    for number, following in zip(numbers, [*numbers[1:], before]):
        verdict = read_verdict(run.attempt(number).verdict)
        history.append(_end(verdict, starts[number], starts[following]))
        if verdict is not None and verdict.status in _PERSONS_ACT:
            history.clear()
    return history


def cause_in(verdict: Verdict) -> Cause:
    """The cause that a verdict names, or that its status implies."""
    return verdict.cause or _CAUSES.get(verdict.status, "unknown")


def lost_cause(start: Start, following: Start) -> Cause:
    """Why an attempt has no verdict: Slurm took its job away and ran it again, or unknown."""
    same_job = start.job_id is not None and start.job_id == following.job_id
    return "preempted" if same_job and following.restarts > start.restarts else "unknown"


def start_of(run: RunDir, allocation: Allocation) -> Start:
    """What is so now."""
    return Start(run.newest_step(), allocation.job_id, allocation.restarts, allocation.hosts)


def _end(verdict: Verdict | None, start: Start, following: Start) -> AttemptEnd:
    if verdict is None:
        cause = lost_cause(start, following)
        return AttemptEnd(cause, None, start.step, following.step, start.nodes)
    after = following.step if verdict.step is None else verdict.step
    return AttemptEnd(cause_in(verdict), verdict.root, start.step, after, start.nodes)
