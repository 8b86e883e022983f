"""Restarts within the allocation on a real Slurm: crashed, poisoned and cancelled two-node runs.

Slow: every case trains with real processes on two nodes, which start more than once.
"""

import os
import re
import signal
from pathlib import Path

import pytest
from runs import assert_equal_runs, submit, trained_steps, wait_until
from tiny import tiny_words, write_tiny_data

from hpcjobs.run.files import read_json, read_lines
from hpcjobs.run.layout import RunDir

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tiny_data(tmp_path_factory.mktemp("data"))


def submit_run(slurm, data, run, **changes):
    plan = {
        "cluster": "slurm", "cluster.partition": "low", "cluster.mem": "3G",
        "parallel.nodes": 2, "parallel.gpus_per_node": 1, "parallel.device": "auto",
        "cluster.cpus_per_node": 1, "train.steps": 60, "train.checkpoint.every_steps": 20,
        "run_dir": run.path,
    }  # fmt: skip
    answer = submit(tiny_words(data, **{**plan, **changes}), run.path.parent, env=slurm.env)
    assert answer.returncode == 0, answer.stderr
    return re.search(r"Slurm job (\d+)", answer.stdout).group(1)


def events(run, kind):
    return [event for event in read_lines(run.events) if event["kind"] == kind]


def process_of(run, attempt, rank):
    """The training process that beats as this rank of this attempt, wherever Slurm runs it."""
    mark = f"--attempt\0{attempt}\0".encode()
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words, environment = (place / "cmdline").read_bytes(), (place / "environ").read_bytes()
        except OSError:
            continue
        is_rank = f"\0RANK={rank}\0".encode() in environment
        if is_rank and mark in words and str(run.path).encode() in words and b"fork" not in words:
            return int(place.name)
    raise AssertionError(f"no process of rank {rank} of attempt {attempt}")


def wait_for_steps(run, steps, attempt):
    def reached():
        lines = trained_steps(run).values()
        return any(line["attempt"] == attempt and line["step"] >= steps for line in lines)

    wait_until(reached, f"step {steps} of attempt {attempt} in {run.path}", 240)


def test_a_killed_process_is_started_again_in_the_same_job_and_ends_bit_equal(
    slurm, data, tmp_path
):
    run, undisturbed = RunDir(tmp_path / "killed"), RunDir(tmp_path / "undisturbed")
    other_job = submit_run(slurm, data, undisturbed)
    job_id = submit_run(slurm, data, run)
    wait_for_steps(run, 30, 1)
    os.kill(process_of(run, 1, rank=1), signal.SIGKILL)
    for job in (job_id, other_job):
        slurm.wait_for_state(job, "COMPLETED", 400)
    assert slurm.job(job_id)["Restarts"] == "0"
    first = read_json(run.attempt(1).verdict)
    assert (first["cause"], first["rank"], first["node"]) == ("crash", 1, "node2")
    assert "was killed by signal 9" in first["reason"]
    assert read_json(run.attempt(2).verdict)["status"] == "done"
    assert [event["job_id"] for event in events(run, "attempt_started")] == [job_id, job_id]
    assert events(run, "requeued") == events(run, "follow_up") == []
    assert_equal_runs(undisturbed, run)


def test_a_poison_job_stops_after_its_budget_and_submits_nothing_more(slurm, data, tmp_path):
    """Every process dies before its first step: its interpreter is told to, by its environment."""
    run = RunDir(tmp_path / "poison")
    job_id = submit_run(slurm, data, run, **{"+cluster.env.PYTHONHASHSEED": "poison"})
    slurm.wait_until(lambda: slurm.job(job_id)["JobState"] == "FAILED", 240, "the job to give up")
    assert slurm.job(job_id)["ExitCode"] == "3:0"
    assert run.attempt_numbers() == [1, 2, 3]
    last = read_json(run.attempt(3).verdict)
    assert last["status"] == "never"
    assert last["reason"].startswith("the same failure 3 times without a new checkpoint: rank 0")
    assert "PYTHONHASHSEED" in last["reason"]
    assert slurm.run("squeue", "--noheader").stdout == ""


def test_a_cancelled_job_is_not_started_in_place_either(slurm, data, tmp_path):
    run = RunDir(tmp_path / "cancelled")
    job_id = submit_run(slurm, data, run)
    wait_for_steps(run, 5, 1)
    slurm.run("scancel", job_id)
    slurm.wait_until(lambda: slurm.job(job_id)["JobState"] == "CANCELLED", 60, "the cancelled job")
    assert run.attempt_numbers() == [1]
    assert read_json(run.attempt(1).verdict)["cause"] == "cancelled"
    assert slurm.run("squeue", "--noheader").stdout == ""
