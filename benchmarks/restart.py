"""Where the time goes between the end of an attempt and the first step of the next.

Reads the events of runs that were interrupted, in place or by a requeue, and prints the median of
every phase. Without a run it trains a small model on this machine, kills one of its two processes
with SIGKILL, and measures that.

    python benchmarks/restart.py [RUN ...]
"""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from hpcjobs.run.files import read_lines
from hpcjobs.run.layout import RunDir

PHASES = {
    "teardown": "first process seen to have failed -> the step of all nodes has ended",
    "decision": "-> the next attempt begins: Slurm is asked, the rules decide, a queue waits",
    "health": "the look at the nodes",
    "start": "-> the training process exists: fence, srun, agent",
    "imports": "Python, torch, DeepSpeed",
    "rendezvous": "process group",
    "data": "samples read and checked",
    "model": "model and DeepSpeed engine built",
    "load": "checkpoint verified and loaded",
    "first step": "-> the first step that was not there before",
}
KILL_AFTER_STEPS = 8
PATIENCE_S = 300.0


def restarts(run: RunDir) -> Iterable[tuple[bool, dict[str, float]]]:
    """Every restart of a run: whether it was in place, and the seconds of its phases."""
    events, metrics = list(read_lines(run.events)), list(read_lines(run.metrics))
    for number, following in pairwise(run.attempt_numbers()):
        ended, started = (
            _event(events, "attempt_ended", number),
            _event(events, "attempt_started", following),
        )
        trained = _event(events, "training", following)
        steps = [m["time"] for m in metrics if m["kind"] == "train" and m["attempt"] == following]
        if not (ended and started and trained and steps):
            continue
        startup, health = trained["startup"], _event(events, "health", following)
        looked_s = health["seconds"] if health else 0.0
        phases = {
            "teardown": ended["ended_at"] - (ended["failed_at"] or ended["ended_at"]),
            "decision": started["time"] - ended["ended_at"],
            "health": looked_s,
            "start": startup["started_at"] - started["time"] - looked_s,
            **{
                name: startup[f"{name}_s"]
                for name in ("imports", "rendezvous", "data", "model", "load")
            },
            "first step": steps[0] - trained["time"],
        }
        yield ended["decision"]["kind"] == "restart", phases


def _event(events: Sequence[dict[str, Any]], kind: str, attempt: int) -> dict[str, Any] | None:
    return next((e for e in events if e["kind"] == kind and e.get("attempt") == attempt), None)


def killed_run(place: Path) -> RunDir:
    """Trains the demo on two processes of this machine, kills one, and waits for the end."""
    run = RunDir(place / "run")
    words = ["+experiment=mgm_lora_demo", "cluster=local", "parallel.gpus_per_node=2"]
    words += ["train.steps=30", "train.checkpoint.every_steps=5", f"run_dir={run.path}"]
    job = subprocess.Popen([sys.executable, "-m", "hpcjobs.submit", *words], cwd=place)
    deadline = time.monotonic() + PATIENCE_S
    while len(list(read_lines(run.metrics))) < KILL_AFTER_STEPS:
        if job.poll() is not None or time.monotonic() > deadline:
            sys.exit("the training did not get as far as to be killed")
        time.sleep(0.05)
    os.kill(pid_of(run, rank=1), signal.SIGKILL)
    job.wait()
    return run


def pid_of(run: RunDir, rank: int) -> int:
    """The training process of a rank, by its command line and environment."""
    for proc in Path("/proc").glob("[0-9]*"):
        try:
            argv = (proc / "cmdline").read_text().split("\0")
            env = (proc / "environ").read_text(errors="replace").split("\0")
        except OSError:
            continue
        if argv[-5:-2] == ["--run", str(run.path), "--attempt"] and f"RANK={rank}" in env:
            return int(proc.name)
    sys.exit(f"no process of rank {rank}")


def show(name: str, measured: Sequence[dict[str, float]]) -> None:
    """Prints the median of every phase, and of the sums."""
    print(f"\n{name}: {len(measured)} restarts, seconds (median)")
    for phase, what in PHASES.items():
        print(f"  {phase:12}{statistics.median(m[phase] for m in measured):8.2f}  {what}")
    print(f"  {'together':12}{statistics.median(sum(m.values()) for m in measured):8.2f}")


def main() -> None:
    """Measures, or reads the runs that are named."""
    with tempfile.TemporaryDirectory() as place:
        runs = [RunDir(Path(word)) for word in sys.argv[1:]] or [killed_run(Path(place))]
        found = [restart for run in runs for restart in restarts(run)]
    for name, in_place in (("in place", True), ("in another allocation", False)):
        if measured := [phases for was, phases in found if was == in_place]:
            show(name, measured)


if __name__ == "__main__":
    main()
