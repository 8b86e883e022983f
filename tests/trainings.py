"""Several trainings in one interpreter, without the broker: importing torch is what takes long."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hpcjobs.login.compose import compose_experiment
from hpcjobs.run.fence import open_fence
from hpcjobs.run.files import make_private_dir, write_json
from hpcjobs.run.layout import RunDir
from hpcjobs.run.schema import plain
from hpcjobs.run.verdict import Verdict, read_verdict

DRIVER = """
import os, sys
from pathlib import Path
from hpcjobs.run.layout import RunDir
from hpcjobs.run.verdict import write_verdict
from hpcjobs.train.__main__ import describe_failure
from hpcjobs.train.process import leave
from hpcjobs.train.session import train
from hpcjobs.run.notices import Notices
rank = int(os.environ["RANK"])
for word in sys.argv[1:]:
    run, number = RunDir(Path(word.rpartition(":")[0])), int(word.rpartition(":")[2])
    attempt = run.attempt(number)
    try:
        verdict = train(run, number, Notices())
    except Exception as error:
        verdict = describe_failure(error, rank, attempt.path)
    write_verdict(attempt.rank_verdict(rank), verdict)
leave(0)
"""


def prepare(words: Sequence[str], path: Path) -> RunDir:
    """Makes a run directory that holds what the training processes read."""
    _, experiment = compose_experiment(words)
    run = RunDir(path)
    make_private_dir(run.checkpoints)
    write_json(run.config, plain(experiment))
    return run


def begin_attempt(run: RunDir) -> int:
    """Does what the broker does before it starts the processes."""
    number = run.new_attempt()
    open_fence(run, number)
    return number


def train_all(runs: Sequence[RunDir], processes: int = 1) -> list[Verdict | None]:
    """Gives every run one attempt, one after another; returns what rank 0 says of each."""
    numbers = [begin_attempt(run) for run in runs]
    words = [f"{run.path}:{number}" for run, number in zip(runs, numbers, strict=True)]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {
        **os.environ, "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip
    started = [
        subprocess.Popen(
            [sys.executable, "-c", DRIVER, *words],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(processes)
    ]  # fmt: skip
    said = [process.communicate(timeout=200)[0] for process in started]
    assert [process.returncode for process in started] == [0] * processes, said
    return [
        read_verdict(run.attempt(number).rank_verdict(0))
        for run, number in zip(runs, numbers, strict=True)
    ]
