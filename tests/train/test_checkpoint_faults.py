"""Broken checkpoints, a disk that fills up, figures that are no numbers: nothing good is lost.

Slow: a dozen short trainings in one start of torch, and a few through the front door.
"""

import errno
import math
import os
import shutil
import subprocess

import pytest
import torch
from runs import command, submit, trained_steps, wait_until
from tiny import tiny_words, write_tiny_data
from trainings import prepare, train_all

from hpcjobs.run.errors import TrainingFailedError
from hpcjobs.run.files import append_line, read_json, read_lines, write_json
from hpcjobs.run.holder import current_holder, local_alive, take, this_process
from hpcjobs.run.layout import RunDir
from hpcjobs.run.manifest import MANIFEST, committed_steps, step_dir, verify
from hpcjobs.train.finite import refuse_broken_weights

pytestmark = pytest.mark.slow

STEPS = 6


def words(data, run_dir, **changes):
    plan = {
        "train.steps": STEPS, "parallel.device": "cpu", "parallel.gpus_per_node": 1,
        "parallel.micro_batch": 2, "cluster.cpus_per_node": 1, "run_dir": run_dir,
    }  # fmt: skip
    return tiny_words(data, **plan | changes)


def largest_file(directory):
    return max(directory.glob("*.pt"), key=lambda path: path.stat().st_size)


def truncate(run, step):
    path = largest_file(step_dir(run.checkpoints, step))
    os.truncate(path, path.stat().st_size - 1)


def flip_a_byte(run, step):
    path = largest_file(step_dir(run.checkpoints, step))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def delete_manifest(run, step):
    (step_dir(run.checkpoints, step) / MANIFEST).unlink()


def delete_a_shard(run, step):
    largest_file(step_dir(run.checkpoints, step)).unlink()


BREAKS = [truncate, flip_a_byte, delete_manifest, delete_a_shard]


def unfinish(run):
    """Takes the result and the last checkpoint away, as if the run had been cut short."""
    shutil.rmtree(run.result)
    shutil.rmtree(step_dir(run.checkpoints, STEPS))
    (run.checkpoints / "latest").write_text("step-00000004\n")


def change_config(run, section, key, value):
    config = read_json(run.config)
    config[section][key] = value
    write_json(run.config, config)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def data(place):
    return write_tiny_data(place / "data")


@pytest.fixture(scope="module")
def whole(place, data):
    """A finished run, made through the front door; the others are copies of it."""
    run = RunDir(place / "whole")
    answer = submit(words(data, run.path), place)
    assert answer.returncode == 0, answer.stderr
    return run


def broken_copies(place, data, whole):
    """Runs that were cut short and then damaged, by name."""

    def copy(name, cut=True):
        run = RunDir(place / name)
        shutil.copytree(whole.path, run.path)
        if cut:
            unfinish(run)
        return run

    runs = {}
    for damage in BREAKS:
        runs[damage.__name__] = copy(damage.__name__)
        damage(runs[damage.__name__], 4)
    runs["keeps one"] = copy("keeps one")
    truncate(runs["keeps one"], 4)
    change_config(runs["keeps one"], "train", "checkpoint", {"every_steps": 1, "keep": 1})
    runs["all broken"] = copy("all broken")
    truncate(runs["all broken"], 2)
    delete_manifest(runs["all broken"], 4)
    runs["gone"] = copy("gone")
    for step in (2, 4):
        shutil.rmtree(step_dir(runs["gone"].checkpoints, step))
    runs["other world"] = copy("other world")
    manifest = step_dir(runs["other world"].checkpoints, 4) / MANIFEST
    write_json(manifest, read_json(manifest) | {"world_size": 4})
    runs["other stage"] = copy("other stage")
    change_config(runs["other stage"], "parallel", "zero_stage", 0)
    runs["finished"] = copy("finished", cut=False)
    plan = {"train.lr": 1e30, "train.checkpoint.every_steps": 1}
    runs["diverged"] = prepare(words(data, place / "diverged", **plan), place / "diverged")
    return runs


@pytest.fixture(scope="module")
def went_on(place, data, whole):
    """Each broken copy after it was continued: the run, and what rank 0 said."""
    runs = broken_copies(place, data, whole)
    verdicts = train_all(list(runs.values()))
    return {name: (run, verdicts[i]) for i, (name, run) in enumerate(runs.items())}


def rejections(run):
    return [event for event in read_lines(run.events) if event["kind"] == "checkpoint_rejected"]


def steps_of_attempt(run, number):
    return [e["step"] for e in read_lines(run.metrics) if e.get("lr") and e["attempt"] == number]


@pytest.mark.parametrize("damage", BREAKS, ids=lambda damage: damage.__name__)
def test_a_broken_checkpoint_is_passed_over_and_the_run_ends_as_if_it_were_whole(
    went_on, whole, damage
):
    run, verdict = went_on[damage.__name__]
    assert verdict.status == "done"
    assert steps_of_attempt(run, 2) == [3, 4, 5, 6]
    for step, line in trained_steps(whole).items():
        assert trained_steps(run)[step]["loss"] == line["loss"]
    assert read_json(run.result_file) == read_json(whole.result_file)


def test_what_was_passed_over_is_told_and_kept_for_a_look(went_on):
    run, _ = went_on["truncate"]
    [event] = rejections(run)
    assert "step-00000004" in event["reason"]
    assert "bytes, not" in event["reason"]
    assert (run.checkpoints / "step-00000004.rejected").is_dir()
    assert committed_steps(run.checkpoints) == [2, 4, 6]
    for step in (2, 4, 6):
        verify(step_dir(run.checkpoints, step))


def test_a_broken_checkpoint_does_not_drive_the_intact_ones_out(went_on):
    """Counted among those to keep, the broken step 4 would have cost the new step 3 its place."""
    run, verdict = went_on["keeps one"]
    assert verdict.status == "done"
    saved = [e for e in read_lines(run.events) if e["kind"] == "checkpoint" and e["attempt"] == 2]
    assert [(event["step"], event["pruned"]) for event in saved] == [
        (3, [2]), (4, [3]), (5, [4]), (6, [5]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("all broken", "no checkpoint is intact: "),
        ("gone", "held checkpoints, and they are gone"),
        ("other world", "holds no zero_pp_rank_1_mp_rank_00_optim_states.pt"),
        ("other stage", "is of ZeRO stage 2, this job of stage 0"),
    ],
)
def test_a_run_that_cannot_go_on_never_starts_afresh_silently(went_on, whole, name, said):
    run, verdict = went_on[name]
    assert verdict.status == "never"
    assert said in verdict.reason
    assert run.metrics.read_bytes() == whole.metrics.read_bytes()
    assert not run.result.exists()


def test_the_checkpoints_of_a_refused_run_stay_where_they_are(went_on):
    run, verdict = went_on["all broken"]
    assert committed_steps(run.checkpoints) == [2, 4]
    assert "step-00000002" in verdict.reason
    assert "step-00000004" in verdict.reason


def test_a_finished_run_that_is_started_by_hand_is_left_as_it_is(went_on, whole):
    run, verdict = went_on["finished"]
    assert verdict.status == "done"
    assert run.metrics.read_bytes() == whole.metrics.read_bytes()
    assert run.result_file.stat().st_mtime == whole.result_file.stat().st_mtime


def test_a_loss_that_is_no_number_stops_the_run_and_is_not_saved(went_on):
    run, verdict = went_on["diverged"]
    assert verdict.status == "never"
    assert verdict.reason.startswith("the loss of step 3 is nan; the training has diverged: lower")
    assert list(trained_steps(run)) == [1, 2]
    assert 3 not in committed_steps(run.checkpoints)
    assert b"NaN" not in run.metrics.read_bytes()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_refused_before_a_save(value):
    refuse_broken_weights([torch.ones(3), torch.zeros(2)], 7)
    with pytest.raises(TrainingFailedError, match="weights of step 7 are not all finite, and were"):
        refuse_broken_weights([torch.ones(3), torch.tensor([0.0, value])], 7)


def test_a_line_that_a_full_disk_tore_off_costs_only_itself(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step":1}\n{"step":2,"lo')
    append_line(path, {"step": 3})
    append_line(path, {"step": 4})
    assert [line["step"] for line in read_lines(path)] == [1, 3, 4]


def test_a_holder_that_found_no_room_holds_nothing(tmp_path, monkeypatch):
    """Half a holder could not be read, and would have held the run for ever."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    run = RunDir(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("hpcjobs.run.holder.write_json", full)
        with pytest.raises(OSError, match="No space"):
            take(run, this_process(None), local_alive)
    assert current_holder(run) is None
    take(run, this_process(None), local_alive)


def test_through_the_front_door_a_refusal_is_one_line_with_the_exit_code(place, data, whole):
    run = RunDir(place / "front door")
    shutil.copytree(whole.path, run.path)
    unfinish(run)
    for step in (2, 4):
        flip_a_byte(run, step)
    answer = submit(words(data, run.path), place)
    assert answer.returncode == 6
    assert answer.stderr.startswith("error: no checkpoint is intact: checkpoint step-00000004: ")
    assert len(answer.stderr.splitlines()) == 1
    assert "once that is mended, go on with:" in answer.stdout
    assert committed_steps(run.checkpoints) == [2, 4]


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of three MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], check=False)
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk, leave_bytes):
    state = os.statvfs(disk)
    (disk / "ballast").write_bytes(b"x" * (state.f_bavail * state.f_frsize - leave_bytes))


def train_until_the_disk_is_full(data, disk, leave_bytes):
    """Fills the disk up to some bytes after the first checkpoint; returns the run and the error."""
    run = RunDir(disk / "run")
    plan = {"train.steps": 60, "train.checkpoint.every_steps": 20, "train.checkpoint.keep": 2}
    mine = words(data, run.path, **plan)
    process = subprocess.Popen(
        command(mine), cwd=disk.parent, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_until(lambda: committed_steps(run.checkpoints) == [20], "the first checkpoint", 200)
    fill(disk, leave_bytes)
    _, error = process.communicate(timeout=90)
    assert process.returncode == 6
    assert len(error.splitlines()) == 1
    assert committed_steps(run.checkpoints) == [20]
    verify(step_dir(run.checkpoints, 20))
    assert not list(run.checkpoints.glob("attempt-*/step-*"))
    assert current_holder(run) is None
    return run, mine, error


def test_a_disk_that_fills_up_is_named_and_the_run_goes_on_once_there_is_room(data, small_disk):
    run, mine, error = train_until_the_disk_is_full(data, small_disk, 150_000)
    assert error.startswith(f"error: the disk of {run.path} is full (")
    assert "free space and submit the run again, it goes on from its last checkpoint" in error
    (small_disk / "ballast").unlink()
    again = submit(mine, small_disk.parent)
    assert again.returncode == 0, again.stderr
    starts = [event["first"] for event in read_lines(run.events) if event["kind"] == "training"]
    assert starts == [0, 20]
    assert sorted(trained_steps(run)) == list(range(1, 61))


def test_a_disk_without_room_for_the_verdict_is_named_all_the_same(data, small_disk):
    _, _, error = train_until_the_disk_is_full(data, small_disk, 0)
    assert "the job left no verdict: its disk is full" in error
