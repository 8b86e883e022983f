"""Why an attempt ended: its verdict, in the light of what Slurm and the signals say."""

from __future__ import annotations

from dataclasses import dataclass

from hpcjobs.node.slurm import JobView
from hpcjobs.run.verdict import Cause, Verdict

RUNNING = ("RUNNING", "SIGNALING", "STAGE_OUT", "CONFIGURING")
_EARLY_S = 60.0
"""Slurm may send a job's signal so much earlier than asked (sbatch(1), ``--signal``)."""
_LATE_S = 30.0
"""And checks the limits only so often."""
_ENDS = {"TIMEOUT": "time_limit", "PREEMPTED": "preempted", "NODE_FAIL": "node"}
_REASONS = {"TimeLimit": "time_limit", "NodeDown": "node"}


@dataclass(frozen=True)
class Circumstances:
    """What is known at the end of an attempt beside its verdict."""

    job: JobView | None = None
    """The Slurm job as it is now; None outside Slurm."""
    restarts: int = 0
    """How often Slurm had restarted the job when it began."""
    broker_told: bool = False
    """A stop signal came to the broker."""
    agents_told: bool = False
    """A stop signal came to an agent."""
    now: float = 0.0
    """Unix seconds."""
    signal_lead_s: float = 120.0


def cause_of(verdict: Verdict, seen: Circumstances) -> Cause:
    """Says why an attempt ended; total, so that every case can be shown.

    A job that Slurm is ending and has not counted a restart for was cancelled: to ask for a
    requeue would resurrect it. Signals that reached processes or agents alone end nothing where
    Slurm says that the job runs on.
    """
    if verdict.status == "done":
        return "done"
    if verdict.status == "never":
        return verdict.cause or "never"
    if seen.job is not None and seen.job.state not in RUNNING:
        return _of_ending_job(seen.job, seen.restarts)
    if seen.job is not None and seen.job.preempted:
        return "preempted"
    if (seen.broker_told or seen.agents_told) and limit_is_near(seen):
        return "time_limit"
    if seen.broker_told:
        return "stopped"
    if verdict.cause == "hang":  # the first agent that ends for it has the others told by srun
        return "hang"
    if seen.agents_told or verdict.status == "checkpointed":
        return "interrupted"
    return verdict.cause or ("unknown" if verdict.status == "unknown" else "crash")


def is_restarted(job: JobView | None, restarts: int) -> bool:
    """Whether Slurm has already asked itself to run the job again."""
    return job is not None and job.restarts > restarts


def limit_is_near(seen: Circumstances) -> bool:
    """Whether a signal may have been the announcement of the time limit."""
    if seen.job is None or seen.job.ends_at is None:
        return False
    return seen.job.ends_at - seen.now <= seen.signal_lead_s + _EARLY_S + _LATE_S


def _of_ending_job(job: JobView, restarts: int) -> Cause:
    known: Cause | None = _ENDS.get(job.state) or _REASONS.get(job.reason)  # type: ignore[assignment]
    if is_restarted(job, restarts):
        return known or "preempted"
    return known or "cancelled"
