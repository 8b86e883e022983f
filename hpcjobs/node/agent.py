"""The node agent: one a node, starts one training process a card with static ranks."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from hpcjobs.node.container import Command, check_container, process_command
from hpcjobs.node.env_file import read_env_file
from hpcjobs.node.scratch import open_scratch, scratch_path
from hpcjobs.node.supervision import Supervision
from hpcjobs.node.watch import Watch, beats_environment, end_marked
from hpcjobs.run.elastic import fitted
from hpcjobs.run.errors import HpcjobsError
from hpcjobs.run.files import PRIVATE_FILE, write_json
from hpcjobs.run.holder import this_process
from hpcjobs.run.launch import Launch, read_launch
from hpcjobs.run.layout import RunDir
from hpcjobs.run.notices import Notices, blocked
from hpcjobs.run.verdict import Verdict, write_verdict


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
    notices.listen_for_force()
    launch = read_launch(place.run.launch)
    launch = fitted(launch, int(os.environ.get("SLURM_STEP_NUM_NODES", launch.nodes)))
    attempt = place.run.attempt(place.attempt)
    write_json(attempt.agent(place.node), asdict(this_process(os.environ.get("SLURM_JOB_ID"))))
    path = scratch_path(place.run, place.node, os.environ)
    if path.is_dir():
        end_marked(path)  # what an agent that was killed has left
    with open_scratch(path) as scratch:
        try:
            return _run_processes(launch, place, notices, scratch)
        except (HpcjobsError, OSError) as error:
            rank = _ranks(launch, place.node)[0]
            reason = f"cannot start the training on {os.uname().nodename}: {error}"
            write_verdict(attempt.rank_verdict(rank), Verdict("never", reason, rank=rank))
            return 1
        finally:
            end_marked(scratch)


def _run_processes(launch: Launch, place: Place, notices: Notices, scratch: Path) -> int:
    processes = _start_all(launch, place, scratch)
    pids = {rank: process.pid for rank, process in processes.items()}
    watch = Watch(place.run, place.attempt, place.node, launch, scratch, pids)
    attempt = place.run.attempt(place.attempt)
    try:
        supervision = Supervision(attempt, place.node, launch, processes, notices, scratch)
        return supervision.run(watch.look)
    finally:
        watch.close()


def _start_all(launch: Launch, place: Place, scratch: Path) -> dict[int, subprocess.Popen[bytes]]:
    """Starts every process of the node, or none."""
    check_container(launch)
    secrets = read_env_file(launch.env_file) if launch.env_file else {}
    base = {**os.environ, **beats_environment(scratch)}
    started: dict[int, subprocess.Popen[bytes]] = {}
    try:
        for local, rank in enumerate(_ranks(launch, place.node)):
            environment = rank_environment(launch, place, local, base)
            words = ["--run", str(place.run.path), "--attempt", str(place.attempt)]
            command = process_command(launch, words, environment, secrets, scratch)
            started[rank] = _start(command, place, rank)
    except BaseException:
        for process in started.values():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        raise
    return started


def _ranks(launch: Launch, node: int) -> range:
    first = node * launch.processes_per_node
    return range(first, first + launch.processes_per_node)


def _start(command: Command, place: Place, rank: int) -> subprocess.Popen[bytes]:
    log = place.run.attempt(place.attempt).rank_log(rank)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE_FILE)
    try:
        with blocked():
            return subprocess.Popen(
                command.argv,
                env=command.env,
                cwd=place.run.path,
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    finally:
        os.close(descriptor)
