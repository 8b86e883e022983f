"""What a preemption and a crash cost on a real Slurm of several nodes on this machine.

A two-node training is crashed (SIGKILL of the training process on the second node) and preempted,
again and again. Prints the seconds from the notice to the committed checkpoint, and where the
time goes until the first new step, in place and after a requeue.

    python benchmarks/survival.py [--repeats 5] [--json FILE]

Needs the Slurm packages (tests/cluster/install.sh).
"""

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from cluster.slurm_cluster import SlurmCluster
from runs import submit, trained_steps, wait_until
from tiny import tiny_words, write_tiny_data

from benchmarks.restart import PHASES, pid_of, restarts
from hpcjobs.run.files import read_lines
from hpcjobs.run.layout import RunDir

STEPS_BETWEEN = 15
LONG = 100_000
GRACE_S = 60
PATIENCE_S = 300.0


def main() -> None:
    """Measures and prints a table in Markdown; leaves nothing running."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    with (
        SlurmCluster.running(nnodes=4, cpus=4, gpus=2, grace=GRACE_S) as cluster,
        tempfile.TemporaryDirectory(prefix="survival-") as place,
    ):
        run = start_run(cluster, Path(place))
        for _ in range(chosen.repeats):
            attempt = wait_for_steps(run)
            os.kill(pid_of(run, rank=1), signal.SIGKILL)
            wait_for_attempt(run, attempt + 1)
        for _ in range(chosen.repeats):
            attempt = wait_for_steps(run)
            take_all_nodes(cluster)
            wait_for_attempt(run, attempt + 1)
        wait_for_steps(run)
        figures = figures_of(run)
        cluster.cancel_all()
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=2) + "\n")
    sys.stdout.write(page(figures))


def start_run(cluster: SlurmCluster, place: Path) -> RunDir:
    """Submits the training that everything is done to."""
    data = write_tiny_data(place / "data")
    run = RunDir(place / "run")
    plan = {
        "cluster": "slurm", "cluster.partition": "low", "cluster.mem": "3G",
        "cluster.time": "6:00:00", "parallel.nodes": 2, "parallel.gpus_per_node": 1,
        "parallel.device": "auto", "cluster.cpus_per_node": 1, "train.steps": LONG,
        "train.checkpoint.every_steps": 10, "run_dir": run.path,
    }  # fmt: skip
    answer = submit(tiny_words(data, **plan), place, env=cluster.env)
    if answer.returncode:
        sys.exit(answer.stderr)
    return run


def take_all_nodes(cluster: SlurmCluster) -> None:
    """A job of higher priority that needs every node for a moment."""
    high = ("-p", "high", "-N4", "--exclusive", "-o", "/dev/null")
    cluster.run("sbatch", *high, "--wrap", "sleep 1")


def wait_for_attempt(run: RunDir, number: int) -> None:
    """Waits until an attempt has begun."""

    def begun() -> bool:
        return number in run.attempt_numbers()

    wait_until(begun, f"attempt {number}", PATIENCE_S)


def wait_for_steps(run: RunDir) -> int:
    """Waits until the newest attempt has gone some steps; returns its number."""

    def steps() -> int:
        numbers = run.attempt_numbers()
        lines = (line for line in read_lines(run.metrics) if line["kind"] == "train")
        return sum(line["attempt"] == numbers[-1] for line in lines) if numbers else 0

    wait_until(lambda: steps() >= STEPS_BETWEEN, f"{STEPS_BETWEEN} steps", PATIENCE_S)
    return run.attempt_numbers()[-1]


def figures_of(run: RunDir) -> dict[str, Any]:
    """Reads everything from the run's own events and metrics."""
    saves = [
        event
        for event in read_lines(run.events)
        if event["kind"] == "checkpoint" and event.get("notice_s") is not None
    ]
    measured = list(restarts(run))
    return {
        "step_s": [line["step_s"] for line in trained_steps(run).values()],
        "notice_to_commit_s": [event["notice_s"] for event in saves],
        "save_s": [event["save_s"] for event in saves],
        "in_place": [phases for in_place, phases in measured if in_place],
        "requeued": [phases for in_place, phases in measured if not in_place],
    }


def page(figures: dict[str, Any]) -> str:
    """The figures as a table in Markdown."""
    rows = [
        ("a step", figures["step_s"]),
        ("notice to committed checkpoint", figures["notice_to_commit_s"]),
        ("the save in it", figures["save_s"]),
    ]
    for kind in ("in_place", "requeued"):
        name = kind.replace("_", " ")
        rows += [(f"{name}: {phase}", [m[phase] for m in figures[kind]]) for phase in PHASES]
        rows.append((f"{name}: together", [sum(m.values()) for m in figures[kind]]))
    lines = ["| seconds | median | worst |", "|---|---:|---:|"]
    lines += [
        f"| {name} | {statistics.median(values):.2f} | {max(values):.2f} |"
        for name, values in rows
        if values
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
