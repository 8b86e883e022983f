"""Saves in the background: the same bytes, no standstill, one at a time, all ranks or none.

Slow: two dozen attempts of a tiny DeepSpeed training on two ranks, forked from one server.
"""

import os
import signal

import pytest
import torch
from runs import wait_until
from savings import Savings

from hpcjobs.run.fence import staging_dir
from hpcjobs.run.files import read_lines
from hpcjobs.run.manifest import MANIFEST, committed_steps, step_dir, verify

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def savings(tmp_path_factory):
    server = Savings(tmp_path_factory.mktemp("async"))
    yield server
    server.close()


def events(run, kind):
    return [event for event in read_lines(run.events) if event["kind"] == kind]


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and (a == b or hasattr(a, "__dict__"))


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_background_save_is_byte_equal_to_a_blocking_one_and_to_deepspeeds_own(
    savings, tmp_path, stage
):
    runs = {}
    for asynchronous in (True, False):
        name = f"stage-{stage}-{asynchronous}"
        changes = {"parallel.zero_stage": stage, "train.checkpoint.asynchronous": asynchronous}
        runs[asynchronous] = savings.run(name, **changes)
        ended = savings.train(runs[asynchronous], plain=str(tmp_path / name))
        assert ended.codes == [0, 0], ended
    for step in (2, 4, 6):
        background, blocking = (verify(step_dir(run.checkpoints, step)) for run in runs.values())
        assert background.files == blocking.files
    ours = step_dir(runs[True].checkpoints, 6)
    plain = tmp_path / f"stage-{stage}-True" / "plain"
    names = sorted(path.name for path in plain.iterdir())
    assert names == sorted(path.name for path in ours.glob("*_states.pt"))
    for name in names:
        states = [torch.load(place / name, weights_only=False) for place in (plain, ours)]
        assert equal(*states), name


def test_the_training_goes_on_while_a_slow_disk_syncs(savings):
    run = savings.run("slow disk", **{"train.steps": 60, "train.checkpoint.every_steps": 30})
    assert savings.train(run, fsync_s=0.25, step_s=0.1).codes == [0, 0]
    saved, _ = events(run, "checkpoint")
    meanwhile = [line for line in read_lines(run.metrics) if line["time"] <= saved["time"]]
    assert saved["step"] == 30
    assert meanwhile[-1]["step"] > 30
    assert saved["save_s"] > 1
    assert saved["stall_s"] < 0.5 * saved["save_s"]


def test_a_stop_waits_for_the_save_in_flight_and_saves_the_last_step(savings):
    run = savings.run("stop", **{"train.steps": 500, "train.checkpoint.every_steps": 100})
    number = savings.begin(run, fsync_s=0.3, step_s=0.02)
    staged = staging_dir(run.checkpoints, number) / "step-00000100"
    wait_until(staged.is_dir, "the save of step 100")
    savings.signal(run, number, 1, signal.SIGTERM)
    savings.signal(run, number, 1, signal.SIGTERM)  # and once more, during the save
    ended = savings.end(run, number)
    last = max(line["step"] for line in read_lines(run.metrics))
    assert [verdict.status for verdict in ended.verdicts] == ["checkpointed"] * 2
    assert [verdict.step for verdict in ended.verdicts] == [last] * 2
    assert committed_steps(run.checkpoints) == [100, last]
    assert [event["step"] for event in events(run, "checkpoint")] == [100, last]


def obstruct(what, run, number):
    """Puts something in the way of step 4 that only one phase of one rank runs into."""
    staged = staging_dir(run.checkpoints, number) / "step-00000004"
    if what == "rename":
        wait_until((staged / "rng-rank-00000.pt").exists, "the save of step 4")
        (run.checkpoints / "step-00000004").write_text("in the way")
        return
    staged.mkdir()
    if what == "manifest":
        (staged / MANIFEST).mkdir()
    else:
        (staged / what).write_text("in the way")


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("zero_pp_rank_0_mp_rank_00_optim_states.pt", "FileExistsError"),
        ("zero_pp_rank_1_mp_rank_00_optim_states.pt", "FileExistsError"),
        ("rng-rank-00001.pt", "FileExistsError"),
        ("manifest", "IsADirectoryError"),
        ("rename", "NotADirectoryError"),
    ],
)
def test_what_fails_on_one_rank_in_any_phase_fails_on_all_and_commits_nothing(savings, what, said):
    run = savings.run(f"obstructed {what}")
    if what == "rename":  # a file in the place of a checkpoint would be seen at the start
        number = savings.begin(run, fsync_s=0.3)
        obstruct(what, run, number)
        ended = savings.end(run, number)
    else:
        ended = savings.train(run, lambda number: obstruct(what, run, number))
    assert ended.codes == [1, 1]
    assert [verdict.status for verdict in ended.verdicts] == ["failed"] * 2
    assert len({verdict.reason for verdict in ended.verdicts}) == 1
    assert ended.verdicts[0].reason.startswith(said)
    assert [event["step"] for event in events(run, "checkpoint")] == [2]
    assert (run.checkpoints / "latest").read_text() == "step-00000002\n"
    assert os.listdir(staging_dir(run.checkpoints, 1)) == []


def test_a_warning_names_the_grace_that_saves_need(savings):
    run = savings.run("grace", **{"cluster.signal_lead_s": 1})
    assert savings.train(run, fsync_s=0.3).codes == [0, 0]
    [warning] = events(run, "grace_too_short")
    save_s = events(run, "checkpoint")[0]["save_s"]
    assert warning["lead_s"] == 1
    assert warning["needed_s"] >= 2 * save_s - 0.1, "the save in flight, and the last one"
