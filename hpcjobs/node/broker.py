"""The job broker: one a job, in the batch step; starts the attempt and decides what follows."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict

from hpcjobs.node import slurm
from hpcjobs.node.decide import Action, decide
from hpcjobs.run.errors import InputError, RunHeldError
from hpcjobs.run.events import record_event
from hpcjobs.run.files import read_json
from hpcjobs.run.holder import Holder, local_alive, release, take, this_process
from hpcjobs.run.launch import Launch, read_launch
from hpcjobs.run.layout import RunDir
from hpcjobs.run.notices import Notices, blocked
from hpcjobs.run.verdict import Verdict, conclude, write_verdict

POLL_S = 0.1
ASK_AGAIN_S = 2.0
ORPHANS_END_S = 120.0


def run_broker(run: RunDir, environment: Mapping[str, str]) -> int:
    """Runs one attempt of a run and requeues the job where that is right.

    Returns:
        The batch script's exit code: 0 done, 1 failed, 3 never again, 75 resumable.

    Raises:
        RunHeldError: another live job holds the run directory.
    """
    notices = Notices()
    launch = read_launch(run.launch)
    job_id = environment.get("SLURM_JOB_ID")
    restarts = int(environment.get("SLURM_RESTART_COUNT", "0"))
    if job_id is None and launch.nodes > 1:
        raise InputError("several nodes need Slurm: write parallel.nodes=1 for this machine")
    me = this_process(job_id)
    take(run, me, _alive)
    try:
        _wait_for_orphans(run, launch)
        number = run.new_attempt()
        record_event(run, "attempt_started", attempt=number, job_id=job_id, host=me.host)
        verdict = _attempt(run, launch, number, notices, environment)
        action = _next_action(verdict, job_id, notices, launch, restarts)
        _record(run, number, verdict, action, notices)
    finally:
        release(run, me)
    if action.kind == "requeue" and job_id is not None:
        _requeue(run, job_id, restarts)
    return action.exit_code


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


def _attempt(
    run: RunDir, launch: Launch, number: int, notices: Notices, environment: Mapping[str, str]
) -> Verdict:
    with blocked():
        step = subprocess.Popen(
            _step_command(run, launch, number, environment),
            stdin=subprocess.DEVNULL,
            env=dict(environment),
            start_new_session="SLURM_JOB_ID" not in environment,
        )
    told = False
    while step.poll() is None:
        if notices.stop and not told:
            told = True
            step.send_signal(signal.SIGUSR2)  # srun hands it to the agents of all nodes
        time.sleep(POLL_S)
    return conclude(run.attempt(number), launch.world_size, _exits(run, launch, number))


def _step_command(
    run: RunDir, launch: Launch, number: int, environment: Mapping[str, str]
) -> list[str]:
    in_slurm = "SLURM_JOB_ID" in environment
    nodes = environment.get("SLURM_JOB_NODELIST", "")
    host = slurm.first_host(nodes) if in_slurm else "127.0.0.1"
    agent = [sys.executable, "-Iu", str(run.node_archive), "agent", str(run.path)]
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
        *agent,
    ]


def _free_port() -> int:
    """A port that is free here, on the first node, where rank 0 will listen."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _exits(run: RunDir, launch: Launch, number: int) -> dict[int, int | None]:
    exits: dict[int, int | None] = {}
    for node in range(launch.nodes):
        path = run.attempt(number).exit_codes(node)
        if path.exists():
            exits.update({int(rank): code for rank, code in read_json(path).items()})
    return exits


def _next_action(
    verdict: Verdict, job_id: str | None, notices: Notices, launch: Launch, restarts: int
) -> Action:
    """Asks Slurm how the job stands; without an answer it stays alive and asks again.

    A job that ends inside the grace time is not requeued by Slurm, so going away without
    knowing would lose the run.
    """
    job = None
    if job_id is not None and verdict.status not in ("done", "never"):
        while (job := slurm.view_job(job_id)) is None:
            time.sleep(ASK_AGAIN_S)
    return decide(verdict, job, notices.stop, launch.requeue, restarts)


def _record(run: RunDir, number: int, verdict: Verdict, action: Action, notices: Notices) -> None:
    status = "cancelled" if action.status == "cancelled" else verdict.status
    final = Verdict(status, verdict.reason, verdict.step, verdict.rank)
    write_verdict(run.attempt(number).verdict, final)
    record_event(
        run, "attempt_ended", attempt=number, action=asdict(action), signals=notices.received,
        verdict=asdict(final),
    )  # fmt: skip


def _requeue(run: RunDir, job_id: str, restarts: int) -> None:
    refusal = slurm.requeue(job_id, restarts)
    if refusal is None:
        record_event(run, "requeued", job_id=job_id)
        return
    record_event(run, "requeue_refused", job_id=job_id, said=refusal)
    sys.stderr.write(f"hpcjobs: requeue refused: {refusal}; continue with sbatch {run.script}\n")


def _alive(holder: Holder) -> bool | None:
    if holder.job_id is not None:
        return slurm.job_alive(holder.job_id)
    return local_alive(holder)
