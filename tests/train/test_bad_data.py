"""Broken data is counted, named and refused, or left out where the run allows it; never swallowed.

Slow: three runs through the front door, and two starts of torch for the rest.
"""

import json
import os
import shutil

import pytest
from runs import submit, trained_steps
from tiny import sample, tiny_words, turns, write_tiny_data
from trainings import prepare, train_all

from hpcjobs.run.files import read_json, read_lines
from hpcjobs.run.layout import RunDir
from hpcjobs.run.manifest import committed_steps, step_dir

pytestmark = pytest.mark.slow

STEPS = 4
BROKEN = {
    "s3": ({"image": "pictures/cut.png"}, "picture pictures/cut.png cannot be decoded"),
    "s5": ({"image": "pictures/gone.png"}, "picture pictures/gone.png is missing in"),
    "s10": ({"image": "../outside.png"}, "picture ../outside.png is outside"),
    "s12": ({"image": "pictures/link.png"}, "picture pictures/link.png is outside"),
    "s20": ({"conversations": turns("<image>\nQ?", "A <end_of_turn> B")}, "a word of the template"),
    "s21": ({"conversations": turns("Q without a placeholder?", "A")}, "0 <image> and 1 pictures"),
    "s30": ({"conversations": []}, "it has no conversations"),
}


def words(root, run_dir, **changes):
    plan = {
        "train.steps": STEPS, "parallel.device": "cpu", "parallel.gpus_per_node": 1,
        "parallel.micro_batch": 2, "cluster.cpus_per_node": 1, "run_dir": run_dir,
    }  # fmt: skip
    return tiny_words(root, **plan | changes)


def break_samples(root):
    """Breaks seven of the samples in seven ways; returns the directory."""
    whole = (root / "pictures" / "red.png").read_bytes()
    (root / "pictures" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (root.parent / "outside.png").write_bytes(whole)
    (root / "pictures" / "link.png").symlink_to(root.parent / "outside.png")
    samples = [sample(i) for i in range(64)]
    for one in samples:
        one.update(BROKEN.get(one["id"], ({}, ""))[0])
    (root / "train.json").write_text(json.dumps(samples))
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("bad")


@pytest.fixture(scope="module")
def broken(place):
    return break_samples(write_tiny_data(place / "broken"))


@pytest.fixture(scope="module")
def refused(place, broken):
    """A run that allows no broken sample."""
    run = RunDir(place / "run")
    return run, submit(words(broken, run.path), place), read_json(run.data_check)


@pytest.fixture(scope="module")
def allowed(place, broken, refused):
    """The same run directory, now with as many as there are."""
    run, _, _ = refused
    answer = submit(words(broken, run.path, **{"data.bad_samples_max": len(BROKEN)}), place)
    assert answer.returncode == 0, answer.stderr
    return run


def test_too_many_broken_samples_stop_the_run_before_the_first_step(refused):
    run, answer, _ = refused
    assert answer.returncode == 6
    assert answer.stderr.startswith(
        "error: 7 of the train.json samples cannot be used (allowed: 0): s30 (number 30): "
    )
    assert answer.stderr.endswith(
        "; and 2 more, all in data_check.json; mend them, or leave them out with "
        "data.bad_samples_max=7\n"
    )
    assert len(answer.stderr.splitlines()) == 1
    assert "data.bad_samples_max" not in answer.stdout
    assert not (run.path / "metrics.jsonl").exists() or not trained_steps(run)
    assert committed_steps(run.checkpoints) == []
    assert not run.result.exists()


@pytest.mark.parametrize("name", BROKEN)
def test_every_broken_sample_is_listed_with_its_reason(refused, name):
    _, _, found = refused
    reasons = {bad["id"]: bad["reason"] for bad in found["train.json"]["bad"]}
    assert reasons.keys() == BROKEN.keys()
    assert BROKEN[name][1] in reasons[name]
    assert found["train.json"]["accepted"] is False


def test_at_the_limit_the_run_trains_without_them_and_says_so(allowed):
    found = read_json(allowed.data_check)["train.json"]
    assert found["accepted"] is True
    assert sorted(bad["id"] for bad in found["bad"]) == sorted(BROKEN)
    assert list(trained_steps(allowed)) == list(range(1, STEPS + 1))
    assert read_json(allowed.result_file)["steps"] == STEPS


def cut_short(run, name):
    """A copy of a finished run as it was before its last steps."""
    copy = RunDir(run.path.parent / name)
    shutil.copytree(run.path, copy.path)
    shutil.rmtree(copy.result)
    shutil.rmtree(step_dir(copy.checkpoints, STEPS))
    return copy


@pytest.fixture(scope="module")
def unlucky(place, allowed, broken):
    """What rank 0 says of runs whose data is wrong in ways that the door does not see."""
    runs = {}
    for name, content in (
        ("not json", '[{"id": 1}, oops]'),
        ("empty", "[ ]"),
        ("not utf-8", b'[{"id": "\xff"}]'),
        ("few", json.dumps([sample(i) for i in range(3)])),
    ):
        root = write_tiny_data(place / name)
        (root / "train.json").write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )
        runs[name] = prepare(words(root, place / f"run {name}"), place / f"run {name}")
    model = place / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    path = place / "run weights"
    plan = {"model.weights": "pretrained", "model.path": model, "data.bad_samples_max": 7}
    runs["weights"] = prepare(words(broken, path, **plan), path)
    runs["same"] = cut_short(allowed, "run same")
    said = dict(zip(runs, train_all(list(runs.values())), strict=True))
    changed = cut_short(allowed, "run changed")
    text = (broken / "train.json").read_text()
    (broken / "train.json").write_text(text.replace("Which", "What "))
    [said["changed"]] = train_all([changed])
    (broken / "train.json").write_text(text)
    return said


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("not json", "train.json is not JSON: Expecting value in line 1, column 13; mend it there"),
        ("empty", "train.json must hold a JSON list of samples, not an empty list"),
        ("not utf-8", "train.json is not UTF-8 text: byte 9; save it as UTF-8"),
        ("few", "3 samples are fewer than train.global_batch=8: write train.global_batch=3"),
        ("weights", "model.safetensors, is it complete?"),
        ("changed", "train.json has changed since the run began"),
    ],
)
def test_the_verdict_names_the_file_and_the_remedy_and_forbids_a_retry(unlucky, name, reason):
    assert unlucky[name].status == "never"
    assert reason in unlucky[name].reason
    assert "\n" not in unlucky[name].reason


def test_a_resumed_run_leaves_out_the_samples_that_it_left_out_before(unlucky, allowed):
    assert unlucky["same"].status == "done"
    again = RunDir(allowed.path.parent / "run same")
    losses = [line["loss"] for line in trained_steps(again).values()]
    assert losses == [line["loss"] for line in trained_steps(allowed).values()]


def test_a_picture_that_breaks_after_the_check_is_named_in_one_line(
    place, allowed, broken, unlucky
):
    """Its loader process would wrap the error into a traceback of its own."""
    run = cut_short(allowed, "run broke later")
    for picture in (broken / "pictures").glob("*.png"):
        if not picture.is_symlink():
            os.truncate(picture, 40)
    plan = {"data.bad_samples_max": len(BROKEN), "data.workers": 2}
    answer = submit(words(broken, run.path, **plan), place)
    assert answer.returncode == 6
    assert len(answer.stderr.splitlines()) == 1, answer.stderr
    assert answer.stderr.startswith("error: sample s")
    assert "cannot be used any more: picture pictures/" in answer.stderr
    assert "mend it and submit the run again" in answer.stderr
    assert committed_steps(run.checkpoints) == [2]
    [started] = [e for e in read_lines(run.events) if e["kind"] == "training"][1:]
    assert started["first"] == 2
