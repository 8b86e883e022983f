"""The step of one attempt: the agents of all nodes, from their start to their end."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hpcjobs.node.cause import RUNNING
from hpcjobs.node.job import Allocation
from hpcjobs.node.slurm import JobView, run_command
from hpcjobs.run.events import record_event
from hpcjobs.run.layout import RunDir
from hpcjobs.run.node_end import NodeEnd, read_node_end
from hpcjobs.run.notices import FORCE_SIGNAL, Notices, blocked

POLL_S = 0.1
LOOK_EVERY_S = 1.0
"""How often the attempt's directory is looked at."""
AGENTS_LISTEN_WITHIN_S = 15.0
"""A signal before an agent listens would kill it."""
ASK_SLURM_AFTER_S = 5.0
ASK_SLURM_EVERY_S = 300.0
"""How often Slurm is asked for an announcement that nobody heard: it tells the steps alone, and
between two steps there is none."""
MARGIN_S = 10.0
"""What is kept of the lead time for stacks, kill, verdict and requeue; at most a quarter of it."""
FORCED_END_S = 5.0
TEARDOWN_S = 60.0
"""How long the step may go on after a process has failed: a lost node does not answer."""


@dataclass(frozen=True)
class StepEnd:
    """How the step ended."""

    agents_told: bool
    """An agent was told that the end is near."""
    slurm_told: bool
    """Slurm said so when it was asked, and nobody had heard."""
    forced: bool
    """The lead time was used up, and the processes were killed."""


class Step:
    """One step; ``run`` returns when it has ended, or does not answer any more."""

    def __init__(
        self,
        run: RunDir,
        number: int,
        nodes: int,
        notices: Notices,
        view: Callable[[], JobView | None],
        allocation: Allocation,
    ) -> None:
        """Prepares the step of an attempt.

        Args:
            run: the run.
            number: the attempt.
            nodes: how many agents there will be.
            notices: the broker's.
            view: asks Slurm for the job; None where it does not answer or there is no Slurm.
            allocation: where the step runs.
        """
        self._run, self._attempt, self._number = run, run.attempt(number), number
        self._nodes, self._notices, self._view = nodes, notices, view
        self._job_id, self._is_batch = allocation.job_id, allocation.is_batch
        self._agents_told = self._slurm_told = self._forced = False
        self._announced = self._passed_on = False
        self._force_at_s: float | None = None
        self._failed_s: float | None = None

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> StepEnd:
        """Starts the agents and goes along with them."""
        with blocked():
            step = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                env=dict(environment),
                start_new_session=not self._is_batch,  # a terminal's Ctrl-C is for the broker
            )
        started_s = time.monotonic()
        next_look_s, next_ask_s = started_s, started_s + ASK_SLURM_AFTER_S
        while step.poll() is None:
            now_s = time.monotonic()
            if now_s >= next_look_s:
                next_look_s = now_s + LOOK_EVERY_S
                self._look(now_s)
            if not self._is_told and self._job_id is not None and now_s >= next_ask_s:
                next_ask_s = now_s + ASK_SLURM_EVERY_S
                self._slurm_told = is_announced(self._view())
            self._act(step, now_s, started_s)
            time.sleep(POLL_S)
        self._look(time.monotonic(), has_ended=True)
        if self._is_told and not self._announced:
            self._note_announcement(time.monotonic())
        return StepEnd(self._agents_told, self._slurm_told, self._forced)

    @property
    def _is_told(self) -> bool:
        return self._notices.stop or self._agents_told or self._slurm_told

    def _look(self, now_s: float, has_ended: bool = False) -> None:
        names = {path.name for path in self._attempt.path.iterdir()}  # one question, not hundreds
        places = [self._attempt.exit_codes(node) for node in range(self._nodes)]
        ends = [read_node_end(path) if path.name in names else None for path in places]
        told = [self._attempt.notice(node).name in names for node in range(self._nodes)]
        self._agents_told = agents_were_told(told, ends, has_ended)
        if self._failed_s is None and any(end and end.failed_at is not None for end in ends):
            self._failed_s = now_s

    def _act(self, step: subprocess.Popen[bytes], now_s: float, started_s: float) -> None:
        if self._is_told and not self._passed_on and self._agents_listen(now_s - started_s):
            self._passed_on = True
            step.send_signal(signal.SIGUSR2)  # srun hands it to the agents of all nodes
        if self._is_told and not self._announced:  # after that: Slurm may be long to answer
            self._announced = True
            self._note_announcement(now_s)
        if self._force_at_s is not None and now_s >= self._force_at_s:
            self._force(step, now_s)
        if self._failed_s is not None and now_s - self._failed_s > TEARDOWN_S:
            self._give_up(step, "a process failed, and the step did not end")

    def _note_announcement(self, now_s: float) -> None:
        """Finds out how much time is left; unknown is unknown, then Slurm's own kill is it."""
        job = self._view() if self._job_id is not None else None
        lead_s = None
        if job is not None and job.state in RUNNING and job.ends_at is not None:
            lead_s = max(0.0, job.ends_at - time.time())
            self._force_at_s = now_s + lead_s - min(MARGIN_S, lead_s / 4)
        record_event(
            self._run, "announced", attempt=self._number, signals=self._notices.received,
            by="broker" if self._notices.stop else "agents" if self._agents_told else "slurm",
            state=job.state if job else None, lead_s=lead_s and round(lead_s, 1),
        )  # fmt: skip

    def _agents_listen(self, since_start_s: float) -> bool:
        if since_start_s > AGENTS_LISTEN_WITHIN_S:
            return True
        return all(self._attempt.agent(node).exists() for node in range(self._nodes))

    def _force(self, step: subprocess.Popen[bytes], now_s: float) -> None:
        if not self._forced:
            self._forced = True
            self._force_at_s = now_s + FORCED_END_S
            record_event(self._run, "forced_exit", attempt=self._number)
            step.send_signal(FORCE_SIGNAL)
        else:
            self._give_up(step, "the processes did not end when they were killed")

    def _give_up(self, step: subprocess.Popen[bytes], why: str) -> None:
        record_event(self._run, "step_given_up", attempt=self._number, reason=why)
        step.kill()
        step.wait()
        if self._job_id is not None:
            end_steps(self._job_id)


def agents_were_told(told: Sequence[bool], ends: Sequence[NodeEnd | None], has_ended: bool) -> bool:
    """Whether the agents heard an announcement, and not the echo of a failure.

    When one agent fails, srun ends the others by SIGTERM: then the first to fail has heard
    nothing. Files of different nodes are compared without their clocks.

    Args:
        told: whether each node's agent has heard a stop signal.
        ends: what each has left.
        has_ended: the step has; whoever has left no complete end by then was killed.
    """
    for heard, end in zip(told, ends):
        was_killed = has_ended and (end is None or not end.complete)
        has_failed = end is not None and end.failed_at is not None
        if (was_killed or has_failed) and not heard:
            return False
    return any(told)


def is_announced(job: JobView | None) -> bool:
    """Whether Slurm is taking the allocation away, or is already ending the job."""
    return job is not None and (job.preempted or job.state not in RUNNING)


def end_steps(job_id: str) -> None:
    """Ends what is left of the job's steps; the batch script goes on."""
    answer = run_command(["squeue", "--noheader", "--steps", "--jobs", job_id, "--format=%i"])
    for step in answer.stdout.split():
        if step.rpartition(".")[2].isdigit():
            with contextlib.suppress(OSError):
                run_command(["scancel", step])
