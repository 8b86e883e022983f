"""What follows from the end of an attempt; a pure function, so that every case can be shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hpcjobs.node.slurm import JobView
from hpcjobs.run.verdict import Verdict

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_NEVER = 3
EXIT_RESUMABLE = 75
"""sysexits.h EX_TEMPFAIL: stopped without loss; the same command goes on from the checkpoint."""

_RUNNING = ("RUNNING", "SIGNALING", "STAGE_OUT")


@dataclass(frozen=True)
class Action:
    """End the job with an exit code, or ask for it to be requeued; the reason is recorded."""

    kind: Literal["exit", "requeue"]
    status: str
    exit_code: int
    reason: str


def decide(
    verdict: Verdict,
    job: JobView | None,
    asked_to_stop: bool,
    may_requeue: bool,
    restarts: int = 0,
) -> Action:
    """Decides after the training processes have ended.

    Args:
        verdict: what became of the attempt.
        job: the Slurm job as it is now; None outside Slurm.
        asked_to_stop: a signal had announced the end before the processes ended.
        may_requeue: the run's configuration allows it.
        restarts: how often the job had been restarted when this attempt began.

    A job that Slurm is already ending (COMPLETING) and has not counted a restart for was
    cancelled, or hit its time limit: ``scontrol requeue`` would resurrect it, so nothing is
    asked for.
    """
    if verdict.status == "done":
        return Action("exit", "done", EXIT_DONE, verdict.reason)
    if verdict.status == "never":
        return Action("exit", "never", EXIT_NEVER, verdict.reason)
    if job is not None and job.state not in _RUNNING:
        return _already_ending(verdict, job, restarts)
    interrupted = asked_to_stop or (job is not None and job.preempted)
    if verdict.status == "checkpointed" or interrupted:
        return _resumable(verdict, job, may_requeue)
    return Action("exit", verdict.status, EXIT_FAILED, verdict.reason)


def _already_ending(verdict: Verdict, job: JobView, restarts: int) -> Action:
    if job.restarts > restarts:
        return Action("exit", verdict.status, EXIT_RESUMABLE, "Slurm has requeued the job")
    if job.reason == "TimeLimit":
        return Action("exit", verdict.status, EXIT_RESUMABLE, "the time limit ended the job")
    return Action("exit", "cancelled", EXIT_RESUMABLE, f"the job is {job.state}: not requeued")


def _resumable(verdict: Verdict, job: JobView | None, may_requeue: bool) -> Action:
    if job is None:
        return Action("exit", verdict.status, EXIT_RESUMABLE, verdict.reason)
    if not may_requeue:
        return Action("exit", verdict.status, EXIT_RESUMABLE, "cluster.requeue is false")
    return Action("requeue", verdict.status, EXIT_RESUMABLE, verdict.reason)
