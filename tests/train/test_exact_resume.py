"""An interrupted and resumed training is bit-equal to an undisturbed one.

Slow: each case trains twice with real processes and imports torch three times over.
"""

import os
import signal
from pathlib import Path

import pytest
from runs import assert_equal_runs, start, submit, trained_steps, wait_until
from tiny import tiny_words, write_tiny_data

from hpcjobs.run.files import read_json, read_lines
from hpcjobs.run.layout import RunDir

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STEPS = 60
PATIENCE_S = 400
"""For one training: ten times what it takes on an idle machine."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tiny_data(tmp_path_factory.mktemp("data"))


def words(data, run_dir, **changes):
    plan = {"train.steps": STEPS, "train.checkpoint.every_steps": 10, "run_dir": run_dir}
    return tiny_words(data, **plan, **changes)


def leader_pid(run, attempt, rank):
    """The pid of a training process, found by the run directory on its command line."""
    for proc in Path("/proc").glob("[0-9]*"):
        try:
            argv = (proc / "cmdline").read_text().split("\0")
            env = (proc / "environ").read_text(errors="replace").split("\0")
        except OSError:
            continue
        is_attempt = argv[-5:-1] == ["--run", str(run.path), "--attempt", str(attempt)]
        if is_attempt and f"RANK={rank}" in env:
            return int(proc.name)
    raise AssertionError(f"no process of rank {rank}")


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    """Trains each configuration once without a disturbance."""
    runs = {}

    def train(**changes):
        key = tuple(changes.items())
        if key not in runs:
            place = tmp_path_factory.mktemp("undisturbed")
            runs[key] = RunDir(place / "run")
            answer = submit(words(data, runs[key].path, **changes), place, timeout_s=PATIENCE_S)
            assert answer.returncode == 0, answer.stderr
        return runs[key]

    return train


@pytest.mark.parametrize(
    ("stage", "precision", "offload"),
    [
        (0, "fp32", ()),
        (1, "fp32", ()),
        (2, "fp32", ()),
        (2, "bf16", ("optimizer",)),
        (3, "bf16", ()),
        (3, "fp32", ("optimizer", "params")),
    ],
)
def test_a_run_whose_processes_were_told_to_stop_goes_on_bit_equal(
    data, undisturbed, tmp_path, stage, precision, offload
):
    changes = {"parallel": f"zero{stage}", "parallel.gpus_per_node": 2, "parallel.device": "cpu",
               "parallel.micro_batch": 2, "train.precision": precision,
               **{f"parallel.offload_{what}": "cpu" for what in offload}}  # fmt: skip
    expected = undisturbed(**changes)
    run = RunDir(tmp_path / "stopped")
    first = start(words(data, run.path, **changes), tmp_path)
    wait_until(lambda: len(trained_steps(run)) >= 7, "seven steps", PATIENCE_S)
    os.kill(leader_pid(run, 1, rank=1), signal.SIGTERM)
    said, _ = first.communicate(timeout=PATIENCE_S)
    assert first.returncode == 0, said
    stopped_at = read_json(run.attempt(1).verdict)["step"]
    assert 7 <= stopped_at < STEPS
    assert read_json(run.attempt(1).verdict)["cause"] == "interrupted"
    assert run.attempt_numbers() == [1, 2]
    starts = [event["first"] for event in read_lines(run.events) if event["kind"] == "training"]
    assert starts == [0, stopped_at]
    assert_equal_runs(expected, run)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_run_whose_process_was_killed_goes_on_bit_equal_from_the_last_save(
    data, undisturbed, tmp_path, rank
):
    changes = {"parallel": "zero2", "parallel.gpus_per_node": 2, "parallel.device": "cpu",
               "parallel.micro_batch": 2, "train.precision": "fp32"}  # fmt: skip
    expected = undisturbed(**changes)
    run = RunDir(tmp_path / "killed")
    first = start(words(data, run.path, **changes), tmp_path)
    wait_until(lambda: len(trained_steps(run)) >= 14, "fourteen steps", PATIENCE_S)
    os.kill(leader_pid(run, 1, rank), signal.SIGKILL)
    said, _ = first.communicate(timeout=PATIENCE_S)
    assert first.returncode == 0, said
    assert "was killed by signal 9" in read_json(run.attempt(1).verdict)["reason"]
    assert read_json(run.attempt(1).verdict)["rank"] == rank
    assert run.attempt_numbers() == [1, 2]
    assert_equal_runs(expected, run)
