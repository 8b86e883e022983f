"""A run that takes the nodes that there are: started on three, requeued onto one, on a real Slurm.

Slow: it trains with real processes on both, and Slurm lets a requeued job wait.
"""

import re

import pytest
from runs import submit, trained_steps, wait_until
from tiny import tiny_words, write_tiny_data

from hpcjobs.run.files import read_json, read_lines
from hpcjobs.run.layout import RunDir
from hpcjobs.run.manifest import committed_steps, read_manifest, step_dir

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.timeout(600)]

STEPS, GLOBAL_BATCH = 60, 8


def events(run, kind):
    return [event for event in read_lines(run.events) if event["kind"] == kind]


def test_a_requeued_run_goes_on_with_the_nodes_that_are_left(slurm, tmp_path):
    """Four micro batches divide over two of three nodes, and over the one that is left later."""
    run = RunDir(tmp_path / "run")
    data = write_tiny_data(tmp_path / "data")
    words = tiny_words(
        data, cluster="slurm", cluster__partition="low", cluster__mem="3G",
        parallel="zero2", parallel__nodes="1-3", parallel__gpus_per_node=1,
        parallel__micro_batch=2, train__global_batch=GLOBAL_BATCH, train__steps=STEPS,
        train__checkpoint__every_steps=20, train__checkpoint__keep=9, cluster__cpus_per_node=1,
        run_dir=run.path,
    )  # fmt: skip
    answer = submit(words, tmp_path, env=slurm.env, timeout_s=240)
    assert answer.returncode == 0, answer.stderr
    job_id = re.search(r"Slurm job (\d+)", answer.stdout).group(1)
    assert "#SBATCH --nodes=1-3\n" in run.script.read_text()
    wait_until(lambda: len(trained_steps(run)) >= 10, "ten steps", 240)
    blocker = slurm.submit(
        "-p", "high", "-N3", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 999"
    )
    try:
        wait_until(run.result_file.exists, "the result", 400)
    finally:
        slurm.run("scancel", blocker)
    steps = committed_steps(run.checkpoints)
    saved = [read_manifest(step_dir(run.checkpoints, step)) for step in (steps[0], steps[-1])]
    assert [manifest.world_size for manifest in saved] == [2, 1]
    assert {event["job_id"] for event in events(run, "attempt_started")} == {job_id}
    assert [(e["there"], e["used"]) for e in events(run, "nodes")] == [(3, 2), (1, 1)]
    stopped_at = read_json(run.attempt(1).verdict)["step"]
    assert [event["first"] for event in events(run, "training")] == [0, stopped_at]
    trained = trained_steps(run)
    assert list(trained) == list(range(1, STEPS + 1))
    assert [line["samples"] for line in trained.values()] == [
        GLOBAL_BATCH * step for step in range(1, STEPS + 1)
    ]
    assert trained[STEPS]["loss"] < trained[1]["loss"]
