"""Tiny DeepSpeed trainings in forked processes, so that dozens of them can be killed in a test.

Importing torch and DeepSpeed takes seconds; here that happens once, in a server without threads,
which forks the ranks of each attempt. They run the real loop, engine, saver and commit.
"""

import contextlib
import copy
import ctypes
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from tiny import tiny_words
from trainings import begin_attempt

from hpcjobs.login.compose import compose_experiment
from hpcjobs.run.files import make_private_dir, write_json
from hpcjobs.run.layout import RunDir
from hpcjobs.run.schema import plain
from hpcjobs.run.verdict import Verdict, read_verdict

WIDTH = 64


@dataclass(frozen=True)
class Ended:
    """How an attempt ended: exit code (negative: signal) and verdict by rank."""

    codes: list[int]
    verdicts: list[Verdict | None]


class Savings:
    """The server; ``train`` starts one attempt."""

    def __init__(self, place: Path):
        self.place = place
        plan = {
            "parallel": "zero2", "parallel.device": "cpu", "parallel.gpus_per_node": 2,
            "parallel.micro_batch": 1, "train.global_batch": 2, "model.text.hidden": WIDTH,
            "train.precision": "fp32", "train.steps": 6,
        }  # fmt: skip
        _, experiment = compose_experiment(tiny_words(place, **plan))
        self._config = plain(experiment)
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1",
                 "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )  # fmt: skip

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait(timeout=60)

    def run(self, name: str, **changes: object) -> RunDir:
        """A new run; changes are dotted keys of the configuration."""
        config = copy.deepcopy(self._config)
        for key, value in changes.items():
            *groups, last = key.split(".")
            group = config
            for word in groups:
                group = group[word]
            group[last] = value
        run = RunDir(self.place / name)
        make_private_dir(run.checkpoints)
        write_json(run.config, config)
        return run

    def begin(
        self, run: RunDir, before: Callable[[int], object] | None = None, **order: object
    ) -> int:
        """Starts an attempt and returns its number; ``end`` waits for it.

        Args:
            run: the run.
            before: called with the number before the processes start.
            order: for the ranks. ``kill``: [rank, n], which kills itself at its n-th act on a file
                of the checkpoints, counted from the first save of ``at_step`` on. ``fsync_s``: how
                long the disk takes to sync a file. ``step_s``: how long a step takes. ``width``: of
                the model. ``plain``: a directory for a save by DeepSpeed alone at the end.
                ``blind``: a rank that sees an empty directory in place of the newest checkpoint.
        """
        number = begin_attempt(run)
        if before is not None:
            before(number)
        world = json.loads(run.config.read_text())["parallel"]["gpus_per_node"]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        whole = {"run": str(run.path), "attempt": number, "world": world, "port": port, **order}
        self._server.stdin.write(json.dumps(whole) + "\n")
        self._server.stdin.flush()
        return number

    def end(self, run: RunDir, number: int) -> Ended:
        codes = json.loads(self._server.stdout.readline())
        said = [read_verdict(run.attempt(number).rank_verdict(rank)) for rank in range(len(codes))]
        return Ended(codes, said)

    def train(
        self, run: RunDir, before: Callable[[int], object] | None = None, **order: object
    ) -> Ended:
        return self.end(run, self.begin(run, before, **order))

    def signal(self, run: RunDir, number: int, rank: int, word: signal.Signals) -> None:
        os.kill(int((run.path / f"pid-{number}-{rank}").read_text()), word)


def serve() -> None:
    """Forks the ranks of every order that comes in, and answers with their exit codes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # DeepSpeed talks on standard output

    import torch

    for late in ("muon.muon_optimizer", "stage_1_and_2", "stage3"):  # by deepspeed.initialize
        importlib.import_module(f"deepspeed.runtime.zero.{late}")

    import hpcjobs.train.session  # noqa: F401 - everything that the ranks need

    torch.set_num_threads(1)
    for line in sys.stdin:
        order = json.loads(line)
        pids = []
        for rank in range(order["world"]):
            pid = os.fork()
            if pid == 0:
                rank_process(order, rank)
            pids.append(pid)
            Path(order["run"], f"pid-{order['attempt']}-{rank}").write_text(str(pid))
        answers.write(json.dumps([wait_for(pid, pids) for pid in pids]) + "\n")
        answers.flush()


def wait_for(pid: int, everyone: list[int]) -> int:
    """The exit code; the peers of a killed process get what the agent gives them: an end."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code < 0:
        time.sleep(0.1)
        for other in everyone:
            with contextlib.suppress(ProcessLookupError):
                os.kill(other, signal.SIGKILL)
    return code


def rank_process(order: dict, rank: int) -> None:
    """What ``python -m hpcjobs.train`` does, with a model of two layers and made-up batches."""
    from hpcjobs.run.verdict import write_verdict
    from hpcjobs.train.__main__ import describe_failure

    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(order["world"]),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(order["port"]),
    )  # fmt: skip
    os.umask(0o077)
    if order.get("bound"):
        give_up_being_root_for_quotas()
    attempt = RunDir(Path(order["run"])).attempt(order["attempt"])
    try:
        verdict = train(order, rank)
    except BaseException as error:  # noqa: BLE001 - as the real process does
        traceback.print_exc()
        verdict = describe_failure(error, rank, attempt.path)
    write_verdict(attempt.rank_verdict(rank), verdict)
    os._exit({"done": 0, "checkpointed": 0, "never": 3}.get(verdict.status, 1))


def train(order: dict, rank: int) -> Verdict:
    import torch

    from hpcjobs.run.experiment import Experiment
    from hpcjobs.run.files import read_json, read_lines
    from hpcjobs.run.notices import Notices
    from hpcjobs.run.schema import build
    from hpcjobs.train.checkpoint import restore
    from hpcjobs.train.engine import build_engine
    from hpcjobs.train.loop import Loop, run_loop
    from hpcjobs.train.process import seed_everything, start_process
    from hpcjobs.train.rhythm import Rhythm
    from hpcjobs.train.saver import Saver

    stop = Notices()
    run = RunDir(Path(order["run"]))
    experiment = build(Experiment, read_json(run.config))
    process = start_process(experiment.parallel)
    seed_everything(1, 0)
    engine = build_engine(tiny_model(order.get("width", WIDTH)), experiment, experiment.train.steps)
    seed_everything(1, rank)
    if order.get("blind") == rank:
        hide_newest(run.checkpoints)
    progress, problems = restore(engine, run.checkpoints, process, experiment.cluster.trusted)
    if rank == 0 and problems:
        run.path.joinpath("problems").write_text("\n".join(problems))
    if "fsync_s" in order:
        slow_disk(order["fsync_s"])
    if order.get("kill") and order["kill"][0] == rank:
        kill_at(run.checkpoints, order["at_step"], order["kill"][1])

    def batches(step: int):
        while True:
            time.sleep(order.get("step_s", 0))
            torch.manual_seed(1000 * step + rank)
            step += 1
            yield {"input_ids_BL": torch.randint(0, 9, (1, 5)), "labels_BL": torch.ones(1, 5).long(),
                   "pictures_P3HH": torch.zeros(0)}  # fmt: skip

    loop = Loop(
        experiment=experiment, run=run, attempt=order["attempt"], process=process, engine=engine,
        stop=stop, steps=experiment.train.steps, progress=progress, saved_step=progress.step or None,
        saver=Saver(
            engine, run.checkpoints, order["attempt"], process, experiment.train.checkpoint.keep
        ),
        rhythm=Rhythm(experiment, read_lines(run.events)),
    )  # fmt: skip
    verdict = run_loop(loop, batches(progress.step), lambda step: None)
    if "plain" in order:
        client = {"progress": asdict(loop.progress)}
        engine.save_checkpoint(order["plain"], "plain", client, exclude_frozen_parameters=True)
    return verdict


def tiny_model(width: int):
    import torch
    from torch import nn

    class Tiny(nn.Module):
        """Two layers, one of them frozen."""

        def __init__(self):
            super().__init__()
            self.frozen = nn.Linear(5, width).requires_grad_(False)
            self.trained = nn.Linear(width, width)
            self.dropout = nn.Dropout(0.1)

        def forward(self, input_ids_BL, **_):  # noqa: N803 - the name that the batch has
            hidden = self.dropout(self.frozen(input_ids_BL.float()))
            return self.trained(hidden).square().mean() + 0.0 * torch.rand(()).item()

    return Tiny()


def slow_disk(seconds: float) -> None:
    real = os.fsync

    def fsync(descriptor):
        time.sleep(seconds)
        real(descriptor)

    os.fsync = fsync


def give_up_being_root_for_quotas() -> None:
    """Drops CAP_SYS_RESOURCE, which lifts quotas (capabilities(7)); the rest of root stays."""
    libc, capability = ctypes.CDLL(None, use_errno=True), 24
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    libc.capget(header, data)
    for word in (0, 1):  # effective, permitted
        data[word] &= ~(1 << capability)
    if libc.capset(header, data):
        raise OSError(ctypes.get_errno(), "capset")


def hide_newest(checkpoints: Path) -> None:
    """Gives this process a view of its own, as a file system of another node may: needs root."""
    from hpcjobs.run import manifest

    manifest.VISIBLE_WITHIN_S = 1.0
    newest = manifest.step_dir(checkpoints, manifest.committed_steps(checkpoints)[-1])
    own_mounts = 0x00020000  # CLONE_NEWNS, unshare(2)
    if ctypes.CDLL(None, use_errno=True).unshare(own_mounts):
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", newest], check=True)


def kill_at(checkpoints: Path, step: int, number: int) -> None:
    """SIGKILL right before the n-th act on a file of the checkpoints, from a save's first one on.

    Python reports every such act to audit hooks, so nothing in the code needs to know.
    """
    acts = (
        "open",
        "os.mkdir",
        "os.rename",
        "os.remove",
        "os.rmdir",
        "os.truncate",
        "shutil.rmtree",
    )
    seen = 0

    def hook(event, arguments):
        nonlocal seen
        if event not in acts or not arguments or not isinstance(arguments[0], (str, os.PathLike)):
            return
        path = os.fspath(arguments[0])
        if not path.startswith(str(checkpoints)):
            return
        if seen or f"step-{step:08d}" in path:
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


if __name__ == "__main__":
    serve()
