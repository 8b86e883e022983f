"""The job broker: one a job, in the batch step; runs attempts and decides what follows each."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from hpcjobs.node import slurm
from hpcjobs.node.cause import Circumstances, cause_of, is_restarted
from hpcjobs.node.continuation import continue_later
from hpcjobs.node.health import check_allocation, settings_of
from hpcjobs.node.health_blame import blame_lost_nodes, blame_nodes
from hpcjobs.node.health_exclude import nodes_to_exclude
from hpcjobs.node.history import Start, read_history, start_of, write_start
from hpcjobs.node.job import Allocation, read_allocation
from hpcjobs.node.pyxis import agent_step
from hpcjobs.node.retry import FAILURES, AttemptEnd, Decision, Limits, decide
from hpcjobs.node.slurm import JobView
from hpcjobs.node.step import Step, StepEnd, is_announced
from hpcjobs.run.conclude import conclude
from hpcjobs.run.elastic import fitted
from hpcjobs.run.errors import InputError, RunHeldError
from hpcjobs.run.events import record_event
from hpcjobs.run.fence import close_fence, open_fence
from hpcjobs.run.files import has_no_room, read_json
from hpcjobs.run.holder import Holder, current_holder, local_alive, release, take, this_process
from hpcjobs.run.launch import Launch, read_launch
from hpcjobs.run.layout import RunDir
from hpcjobs.run.node_end import NodeEnd, read_node_end
from hpcjobs.run.notices import Notices
from hpcjobs.run.trust import refuse_untrusted
from hpcjobs.run.verdict import Cause, Verdict, write_verdict

EXIT_DONE = 0
EXIT_NEVER = 3
EXIT_RESUMABLE = 75
"""sysexits.h EX_TEMPFAIL: stopped without loss; the same command goes on from the checkpoint."""

POLL_S = 0.1
ASK_AGAIN_S = 2.0
SLURM_PATIENCE_S = 60.0
"""How long an attempt that failed without any announcement waits for an answer of Slurm."""
CONTINUE_WITHIN_S = 60.0
ORPHANS_END_S = 120.0


def run_broker(run: RunDir, environment: Mapping[str, str]) -> int:
    """Runs attempts until the run is done, stops, or has to go on in another allocation.

    Returns:
        The batch script's exit code: 0 done, 3 never again, 75 resumable.

    Raises:
        RunHeldError: another live job holds the run directory.
        InputError: the run cannot be started here.
    """
    notices = Notices()
    _refuse_untrusted(run)
    launch = read_launch(run.launch)
    allocation = read_allocation(environment)
    if allocation.job_id is None and launch.nodes > 1:
        raise InputError("several nodes need Slurm: write parallel.nodes=1 for this machine")
    there = len(allocation.hosts) if allocation.job_id else launch.nodes
    used = fitted(launch, there)
    me = replace(this_process(allocation.job_id), restarts=allocation.restarts)
    take(run, me, _alive)
    try:
        _wait_for_orphans(run, launch)
        blame_lost_nodes(run, launch, environment)
        if used.nodes != launch.nodes:
            record_event(run, "nodes", there=there, used=used.nodes)
        broker = Broker(run, used, allocation, environment, notices, me)
        decision = broker.run_attempts()
    except OSError as error:
        raise InputError(f"cannot write the run directory {run.path}: {error.strerror}") from error
    finally:
        release(run, me)
    if decision.kind == "later":
        broker.continue_elsewhere()
    return exit_code_of(decision)


def exit_code_of(decision: Decision) -> int:
    """What the batch script ends with."""
    if decision.kind == "done":
        return EXIT_DONE
    is_final = decision.kind == "stop" and decision.cause != "cancelled"
    return EXIT_NEVER if is_final else EXIT_RESUMABLE


class Broker:
    """One broker in one allocation."""

    def __init__(
        self,
        run: RunDir,
        launch: Launch,
        allocation: Allocation,
        environment: Mapping[str, str],
        notices: Notices,
        me: Holder,
    ) -> None:
        """Takes what was found out at the start; ``me`` holds the run."""
        self._run, self._launch, self._allocation = run, launch, allocation
        self._environment, self._notices, self._me = dict(environment), notices, me
        self._job: JobView | None = None
        self._unfit: dict[str, str] = {}

    def run_attempts(self) -> Decision:
        """Starts the processes again and again in this allocation, for as long as that is right.

        Raises:
            RunHeldError: another job has taken the run over.
        """
        while True:
            self._refuse_if_taken_over()
            decision = self._run_attempt()
            if decision.kind != "restart":
                return decision
            if not self._wait(decision.backoff_s):
                return self._asked_between_attempts()

    def continue_elsewhere(self) -> None:
        """Arranges for the run to go on in another allocation, where Slurm has not done so."""
        allocation, launch = self._allocation, self._launch
        if allocation.job_id is None or is_restarted(self._job, allocation.restarts):
            return
        if not allocation.is_batch:
            record_event(self._run, "follow_up_refused", said="the allocation is not the run's own")
            sys.stderr.write(
                "hpcjobs: this allocation cannot be had again; "
                f"to go on: sbatch {self._run.script}\n"
            )
            return
        left_s = (self._job.ends_at or 0.0) - time.time() if self._job else 0.0
        patience_s = min(CONTINUE_WITHIN_S, left_s / 3) if left_s > 0 else CONTINUE_WITHIN_S / 4
        continue_later(
            self._run, launch, allocation.job_id, allocation.restarts, self._excluded(), patience_s
        )

    def _asked_between_attempts(self) -> Decision:
        """Nothing runs that could save; but a cancelled job must not be requeued here either."""
        cause = self._cause(Verdict("checkpointed", "asked to end between two attempts"), None)
        record_event(self._run, "asked_to_end", cause=cause, signals=self._notices.received)
        return Decision(
            "stop" if cause == "cancelled" else "later", cause, "the job was asked to end"
        )

    def _run_attempt(self) -> Decision:
        number = self._run.new_attempt()
        open_fence(self._run, number)
        start = start_of(self._run, self._allocation)
        write_start(self._run.attempt(number), start)
        record_event(
            self._run, "attempt_started", attempt=number, host=self._me.host, **asdict(start)
        )
        end: StepEnd | None = None
        verdict = self._verdict_before(number)
        if verdict is None:
            try:
                end = self._run_step(number)
                verdict = self._conclude(number, end)
            except InputError as error:  # what the step is to be started with is not there
                verdict = Verdict("never", str(error))
        close_fence(self._run, number)
        return self._decide(number, start, verdict, end)

    def _verdict_before(self, number: int) -> Verdict | None:
        """Looks at the nodes, and for an announcement that no step was there to hear."""
        self._unfit = check_allocation(
            self._run, self._launch, number, self._environment, lambda: self._notices.stop
        )
        if self._notices.stop or is_announced(self._ask_once()):
            return Verdict("checkpointed", "asked to end before the processes were started")
        if not self._unfit:
            return None
        reason = "; ".join(f"{host}: {why}" for host, why in self._unfit.items())
        return Verdict("failed", reason, cause="node", root=reason, node=next(iter(self._unfit)))

    def _run_step(self, number: int) -> StepEnd:
        step = Step(
            self._run, number, self._launch.nodes, self._notices, self._ask_once,
            self._allocation,
        )  # fmt: skip
        return step.run(self._step_command(number), self._environment)

    def _step_command(self, number: int) -> list[str]:
        in_slurm, launch = self._allocation.job_id is not None, self._launch
        host = self._allocation.hosts[0] if in_slurm else "127.0.0.1"
        python, options = agent_step(launch, sys.executable)
        agent = [python, "-Iu", str(self._run.node_archive), "agent", str(self._run.path)]
        agent += [str(number), host, str(_free_port())]
        if not in_slurm:
            return agent
        return [
            "srun",
            f"--nodes={launch.nodes}",
            f"--ntasks={launch.nodes}",
            "--ntasks-per-node=1",
            f"--cpus-per-task={launch.cpus_per_node}",
            "--export=ALL",
            "--kill-on-bad-exit=1",
            "--unbuffered",
            *options,
            *agent,
        ]

    def _conclude(self, number: int, end: StepEnd) -> Verdict:
        verdict = conclude(self._run.attempt(number), self._launch)
        if end.forced and verdict.status not in ("done", "never", "checkpointed"):
            reason = "the lead time was used up before a save was committed"
            return Verdict("checkpointed", reason)
        if verdict.cause in FAILURES and has_no_room(self._run.path):
            return _full_disk(self._run, verdict)
        return verdict

    def _decide(self, number: int, start: Start, verdict: Verdict, end: StepEnd | None) -> Decision:
        ended_at = time.time()
        cause = self._cause(verdict, end)
        safe = replace(verdict, cause=cause, step=self._run.newest_step())
        blame_nodes(self._run, self._launch, number, safe, self._environment)
        self._refuse_if_taken_over()
        history = read_history(self._run, number, start)
        last = AttemptEnd(cause, safe.root, start.step, safe.step or 0, start.nodes)
        limits = Limits(self._launch.failures_max, self._launch.interruptions_max)
        decision = decide([*history, last], limits)
        final = _final(safe, decision)
        write_verdict(self._run.attempt(number).verdict, final)
        ends = self._node_ends(number)
        signals = [*self._notices.received, *(name for e in ends for name in e.signals)]
        failed_at = min((e.failed_at for e in ends if e.failed_at is not None), default=None)
        record_event(
            self._run, "attempt_ended", attempt=number, cause=cause, decision=asdict(decision),
            failed_at=failed_at, ended_at=round(ended_at, 3), signals=signals,
            verdict=asdict(final),
        )  # fmt: skip
        return decision

    def _cause(self, verdict: Verdict, end: StepEnd | None) -> Cause:
        """Says why the attempt ended, after a look at the job where that matters."""
        agents_told = end is not None and (end.agents_told or end.slurm_told)
        if verdict.status not in ("done", "never"):
            self._job = self._ask(is_urgent=self._notices.stop or agents_told)
        seen = Circumstances(
            job=self._job,
            restarts=self._allocation.restarts,
            broker_told=self._notices.stop,
            agents_told=agents_told,
            now=time.time(),
            signal_lead_s=self._launch.signal_lead_s,
        )
        return cause_of(verdict, seen)

    def _ask(self, is_urgent: bool) -> JobView | None:
        """Asks Slurm how the job stands; after an announcement until there is an answer.

        A job that ends inside the grace time is not requeued by Slurm, so going away without
        knowing would lose the run. Without an announcement the allocation counts as kept.
        """
        if self._allocation.job_id is None:
            return None
        deadline_s = time.monotonic() + SLURM_PATIENCE_S
        while (job := self._ask_once()) is None:
            if not (is_urgent or self._notices.stop) and time.monotonic() > deadline_s:
                return None
            time.sleep(ASK_AGAIN_S)
        return job

    def _ask_once(self) -> JobView | None:
        job_id = self._allocation.job_id
        return None if job_id is None else slurm.view_job(job_id)

    def _node_ends(self, number: int) -> list[NodeEnd]:
        attempt = self._run.attempt(number)
        ends = (read_node_end(attempt.exit_codes(node)) for node in range(self._launch.nodes))
        return [end for end in ends if end is not None]

    def _excluded(self) -> list[str]:
        known: list[str] = []
        if self._launch.bad_nodes is not None:
            known = nodes_to_exclude(
                Path(self._launch.bad_nodes), self._allocation.partition, self._launch.nodes,
                settings_of(self._launch),
            )  # fmt: skip
        return sorted({*known, *self._unfit})

    def _wait(self, seconds: float) -> bool:
        """Waits before a restart; returns whether the allocation is still there for it."""
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s and not self._notices.stop:
            time.sleep(POLL_S)
        return not self._notices.stop

    def _refuse_if_taken_over(self) -> None:
        holder = current_holder(self._run)
        if holder != self._me:
            who = "nobody" if holder is None else holder.describe()
            raise RunHeldError(
                f"{self._run.path} was taken over by {who}: this job goes no further"
            )


def _full_disk(run: RunDir, verdict: Verdict) -> Verdict:
    """Says what a process could not write down any more."""
    reason = (
        f"the disk of {run.path} is full ({verdict.reason}): free space and submit the run again, "
        f"it goes on from its last checkpoint"
    )
    return replace(verdict, status="never", reason=reason, cause="storage_full")


def _final(verdict: Verdict, decision: Decision) -> Verdict:
    """The attempt's verdict as it is written: a run that stops says so, and why."""
    if decision.cause == "cancelled":
        return replace(verdict, status="cancelled")
    if decision.kind == "stop" and verdict.status != "never":
        return replace(verdict, status="never", reason=f"{decision.reason}: {verdict.reason}")
    return verdict


def _refuse_untrusted(run: RunDir) -> None:
    """Refuses a directory into which others could have put the files that are about to run."""
    trusted = read_json(run.config)["cluster"].get("trusted", ()) if run.config.exists() else ()
    refuse_untrusted(run.path.absolute(), trusted)


def _wait_for_orphans(run: RunDir, launch: Launch) -> None:
    """Waits while agents of this machine, whose broker was killed, save and end.

    Raises:
        RunHeldError: they do not end.
    """
    numbers = run.attempt_numbers()
    if not numbers:
        return
    paths = [run.attempt(numbers[-1]).agent(node) for node in range(launch.nodes)]
    agents = [Holder(**read_json(path)) for path in paths if path.exists()]
    deadline = time.monotonic() + ORPHANS_END_S
    while any(local_alive(agent) for agent in agents):
        if time.monotonic() > deadline:
            raise RunHeldError(
                f"processes of attempt {numbers[-1]} still run in {run.path}: end them first"
            )
        time.sleep(POLL_S)


def _free_port() -> int:
    """A port that is free here, on the first node, where rank 0 will listen."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _alive(holder: Holder) -> bool | None:
    if holder.job_id is not None:
        return slurm.job_alive(holder.job_id)
    return local_alive(holder)
