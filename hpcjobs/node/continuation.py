"""How a run goes on after its allocation: the same job again, or a job that follows it."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from hpcjobs.node import slurm
from hpcjobs.node.follow_up import Leaving, submit_follow_up
from hpcjobs.node.slurm import Refused, Run, run_command
from hpcjobs.run.allowance import left_s
from hpcjobs.run.bad_nodes import merge_exclude
from hpcjobs.run.events import record_event
from hpcjobs.run.files import append_line
from hpcjobs.run.launch import Launch
from hpcjobs.run.layout import RunDir

PATIENCE_S = 60.0
"""How long each way is tried while the controller is down, restarting or too busy."""
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 15.0
_T = TypeVar("_T")


@dataclass(frozen=True)
class Continuation:
    """What was arranged: the job that goes on with the run, or why none does."""

    kind: Literal["requeued", "follow_up", "none"]
    job_id: str | None
    said: str = ""
    """Why a better way was not taken, in Slurm's words."""


@dataclass(frozen=True)
class World:
    """What a continuation needs of the world around it; the tests have another one."""

    command: Run = run_command
    sleep: Callable[[float], None] = time.sleep
    now: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random


def continue_later(
    run: RunDir,
    launch: Launch,
    job_id: str,
    restarts: int,
    exclude: Sequence[str] = (),
    patience_s: float = PATIENCE_S,
    world: World = World(),
) -> Continuation:
    """Arranges that the run goes on once this job has ended; records it and does not raise.

    ``scontrol requeue`` first, since the job then keeps its id and its place; where that is
    switched off, missing, refused or not answered, a job that depends on this one's end.

    Args:
        run: the run; nobody holds it any more.
        launch: its shape.
        job_id: the job that is about to end.
        restarts: how often it had been restarted when it began.
        exclude: hosts that the run is not to get again.
        patience_s: time for each of the two ways, to be left of the lead time.
        world: commands and clock.
    """
    try:
        left = left_s(run, launch.total_s)
        leaving = Leaving(run, launch, job_id, restarts, exclude, time_limit(left, launch))
        end = _arrange(leaving, left, patience_s, world)
    except OSError as error:  # a full disk; the line to type is all that is left
        end = Continuation("none", None, str(error))
    if end.kind == "none":
        sys.stderr.write(f"hpcjobs: {end.said}. To go on: sbatch {run.script}\n")
    return end


def time_limit(left: float | None, launch: Launch) -> str | None:
    """The next job's limit in Slurm's form where the run's time ends before the script's limit.

    >>> time_limit(5400.0, Launch("python", 1, 1, 1, True, {}, None, job_time_s=7200))
    '90'
    """
    if left is None or launch.job_time_s is None or left >= launch.job_time_s:
        return None
    return str(max(1, int(left // 60)))


def _arrange(leaving: Leaving, left: float | None, patience_s: float, world: World) -> Continuation:
    launch, run = leaving.launch, leaving.run
    if left is not None and left <= launch.signal_lead_s:
        record_event(run, "time_used_up", total_s=launch.total_s)
        return Continuation("none", None, "cluster.time is used up: give the run more of it")
    said = _requeue(leaving, patience_s, world) if launch.requeue else "cluster.requeue is false"
    if said is None:
        return Continuation("requeued", leaving.job_id)
    record_event(run, "requeue_refused", job_id=leaving.job_id, said=said)
    if not launch.follow_up:
        record_event(run, "follow_up_refused", job_id=leaving.job_id, said="cluster.follow_up")
        return Continuation("none", None, f"{said}; cluster.follow_up is false")
    return _follow_up(leaving, said, patience_s, world)


def _requeue(leaving: Leaving, patience_s: float, world: World) -> str | None:
    """Requeues the job; returns why it could not."""
    job_id = leaving.job_id
    answer = persist(
        lambda: slurm.requeue(job_id, leaving.restarts, world.command), patience_s, world
    )
    if answer is not None:
        return answer.said
    record_event(leaving.run, "requeued", job_id=job_id, exclude=list(leaving.exclude))
    changes = []
    if leaving.exclude:
        nodes = merge_exclude(leaving.launch.exclude, leaving.exclude)
        changes.append(f"ExcNodeList={nodes}")
    if leaving.time_limit:
        changes.append(f"TimeLimit={leaving.time_limit}")
    for change in changes:  # the job is pending now, and its user may change it
        update = _Update(world.command, ["scontrol", "update", f"JobId={job_id}", change])
        persist(update, patience_s, world)
    return None


@dataclass(frozen=True)
class _Update:
    """A change that a controller may refuse for the moment."""

    command: Run
    words: Sequence[str]

    def __call__(self) -> Refused | None:
        answer = self.command(self.words)
        return None if answer.returncode == 0 else slurm.refused(answer)


def _follow_up(leaving: Leaving, said: str, patience_s: float, world: World) -> Continuation:
    run = leaving.run
    answer = persist(lambda: submit_follow_up(leaving, world.command), patience_s, world)
    if isinstance(answer, Refused):
        record_event(run, "follow_up_refused", job_id=leaving.job_id, said=answer.said)
        return Continuation("none", None, f"{said}; {answer.said}")
    job = slurm.view_job(leaving.job_id, world.command)
    if job is not None and job.restarts > leaving.restarts:  # the requeue was heard after all
        world.command(["scancel", answer])
        record_event(run, "requeued", job_id=leaving.job_id)
        return Continuation("requeued", leaving.job_id)
    if job is not None and job.state == "COMPLETING":  # a cancellation came at this moment
        world.command(["scancel", answer])
        record_event(run, "follow_up_refused", job_id=leaving.job_id, said="cancelled")
        return Continuation("none", None, "the job was cancelled")
    append_line(run.submissions, {"time": time.time(), "job_id": answer, "after": leaving.job_id})
    record_event(run, "follow_up", job_id=answer, after=leaving.job_id, said=said)
    return Continuation("follow_up", answer, said)


def persist(action: Callable[[], _T | Refused], patience_s: float, world: World) -> _T | Refused:
    """Does something until it succeeds, is refused for good, or the patience ends.

    The pauses double, and differ by chance between the jobs that a controller's restart makes
    ask all at once.
    """
    deadline = world.now() + patience_s
    pause = _FIRST_PAUSE_S
    while True:
        answer = action()
        if not isinstance(answer, Refused) or not answer.passing:
            return answer
        wait = min(pause, _LONGEST_PAUSE_S) * (0.5 + world.chance())
        if world.now() + wait > deadline:
            return answer
        world.sleep(wait)
        pause *= 2
