"""The node agent: one a node, starts one training process a card with static ranks."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from hpcjobs.node.env_file import read_env_file
from hpcjobs.run.errors import HpcjobsError
from hpcjobs.run.files import PRIVATE_FILE, write_json
from hpcjobs.run.holder import this_process
from hpcjobs.run.launch import Launch, read_launch
from hpcjobs.run.layout import RunDir
from hpcjobs.run.notices import Notices, blocked
from hpcjobs.run.verdict import Verdict, write_verdict

POLL_S = 0.1
PEER_GRACE_S = 10.0
"""How long the others may go on after one process failed: time to write what they saw."""


@dataclass(frozen=True)
class Place:
    """Where an agent stands in its attempt."""

    run: RunDir
    attempt: int
    node: int
    master_addr: str
    master_port: int


def rank_environment(
    launch: Launch, place: Place, local_rank: int, base: Mapping[str, str]
) -> dict[str, str]:
    """The environment of one training process.

    DeepSpeed takes the plain ``env://`` rendezvous only if all five of RANK, WORLD_SIZE,
    LOCAL_RANK, MASTER_ADDR and MASTER_PORT are set (else it looks for MPI).
    """
    per_node = launch.processes_per_node
    threads = max(1, launch.cpus_per_node // per_node)
    return {
        **base,
        "OMP_NUM_THREADS": base.get("OMP_NUM_THREADS", str(threads)),
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **launch.env,
        "RANK": str(place.node * per_node + local_rank),
        "WORLD_SIZE": str(launch.world_size),
        "LOCAL_RANK": str(local_rank),
        "LOCAL_WORLD_SIZE": str(per_node),
        "MASTER_ADDR": place.master_addr,
        "MASTER_PORT": str(place.master_port),
    }


def run_agent(place: Place) -> int:
    """Runs this node's processes to their end; returns 0 if all of them ended well."""
    notices = Notices()
    launch = read_launch(place.run.launch)
    attempt = place.run.attempt(place.attempt)
    write_json(attempt.agent(place.node), asdict(this_process(os.environ.get("SLURM_JOB_ID"))))
    try:
        processes = _start_all(launch, place)
    except (HpcjobsError, OSError) as error:
        rank = _ranks(launch, place.node)[0]
        reason = f"cannot start the training on {os.uname().nodename}: {error}"
        write_verdict(attempt.rank_verdict(rank), Verdict("never", reason, rank=rank))
        return 1
    exits = _watch(processes, notices)
    path = attempt.exit_codes(place.node)
    write_json(path, {str(rank): code for rank, code in exits.items()})
    return 0 if all(code == 0 for code in exits.values()) else 1


def _start_all(launch: Launch, place: Place) -> dict[int, subprocess.Popen[bytes]]:
    secrets = read_env_file(launch.env_file) if launch.env_file else {}
    base = {**os.environ, **secrets}
    ranks = enumerate(_ranks(launch, place.node))
    return {rank: _start(launch, place, local, base) for local, rank in ranks}


def _ranks(launch: Launch, node: int) -> range:
    first = node * launch.processes_per_node
    return range(first, first + launch.processes_per_node)


def _start(
    launch: Launch, place: Place, local_rank: int, base: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    environment = rank_environment(launch, place, local_rank, base)
    log = place.run.attempt(place.attempt).rank_log(int(environment["RANK"]))
    command = [launch.python, "-m", "hpcjobs.train", "--run", str(place.run.path)]
    command += ["--attempt", str(place.attempt)]
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE_FILE)
    try:
        with blocked():
            return subprocess.Popen(
                command,
                env=environment,
                cwd=place.run.path,  # -m looks there first, and it holds no package
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    finally:
        os.close(descriptor)


def _watch(
    processes: Mapping[int, subprocess.Popen[bytes]], notices: Notices
) -> dict[int, int | None]:
    """Waits for all processes; one that this agent had to kill has no exit code of its own."""
    parent = os.getppid()
    told = False
    failed_at: float | None = None
    killed: set[int] = set()
    while living := [rank for rank, process in processes.items() if process.poll() is None]:
        orphaned = os.getppid() != parent
        if (notices.stop or orphaned) and not told:
            told = True
            _signal_all(processes, signal.SIGUSR2)
        if failed_at is None and any(process.poll() for process in processes.values()):
            failed_at = time.monotonic()
        if failed_at is not None and time.monotonic() - failed_at > PEER_GRACE_S:
            killed.update(living)
            _signal_all(processes, signal.SIGKILL)
        time.sleep(POLL_S)
    codes = {rank: process.wait() for rank, process in processes.items()}
    return {rank: None if rank in killed else code for rank, code in codes.items()}


def _signal_all(processes: Mapping[int, subprocess.Popen[bytes]], number: signal.Signals) -> None:
    for process in processes.values():
        if process.poll() is not None:
            continue
        if number == signal.SIGKILL:
            os.killpg(process.pid, number)  # loader processes too
        else:
            process.send_signal(number)
