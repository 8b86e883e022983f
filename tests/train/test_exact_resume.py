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

STEPS = 60


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
        if "hpcjobs.train" in argv and str(run.path) in argv and f"RANK={rank}" in env:
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
            answer = submit(words(data, runs[key].path, **changes), place)
            assert answer.returncode == 0, answer.stderr
        return runs[key]

    return train


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "precision"), [(0, "fp32"), (1, "fp32"), (2, "fp32"), (2, "bf16")]
)
def test_a_run_that_was_asked_to_stop_goes_on_bit_equal(
    data, undisturbed, tmp_path, stage, precision
):
    changes = {"parallel": f"zero{stage}", "parallel.gpus_per_node": 2, "parallel.device": "cpu",
               "parallel.micro_batch": 2, "train.precision": precision}  # fmt: skip
    expected = undisturbed(**changes)
    run = RunDir(tmp_path / "stopped")
    first = start(words(data, run.path, **changes), tmp_path)
    wait_until(lambda: len(trained_steps(run)) >= 7, "seven steps")
    os.kill(leader_pid(run, 1, rank=1), signal.SIGTERM)
    said, _ = first.communicate(timeout=60)
    assert first.returncode == 0, said
    stopped_at = read_json(run.attempt(1).verdict)["step"]
    assert 7 <= stopped_at < STEPS
    assert "Go on with:" in said
    again = submit(words(data, run.path, **changes), tmp_path)
    assert again.returncode == 0, again.stderr
    assert run.attempt_numbers() == [1, 2]
    starts = [event["first"] for event in read_lines(run.events) if event["kind"] == "training"]
    assert starts == [0, stopped_at]
    assert_equal_runs(expected, run)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_run_whose_process_was_killed_goes_on_bit_equal_from_the_last_save(
    data, undisturbed, tmp_path, rank
):
    changes = {"parallel": "zero2", "parallel.gpus_per_node": 2, "parallel.device": "cpu",
               "parallel.micro_batch": 2, "train.precision": "fp32"}  # fmt: skip
    expected = undisturbed(**changes)
    run = RunDir(tmp_path / "killed")
    first = start(words(data, run.path, **changes), tmp_path)
    wait_until(lambda: len(trained_steps(run)) >= 14, "fourteen steps")
    os.kill(leader_pid(run, 1, rank), signal.SIGKILL)
    said, _ = first.communicate(timeout=90)
    assert first.returncode == 6, said
    assert f"rank {rank} was killed by signal 9" in said
    assert submit(words(data, run.path, **changes), tmp_path).returncode == 0
    assert_equal_runs(expected, run)
