"""A checkpoint counts only if every byte is as it was when it was committed."""

import os

import pytest

from hpcjobs.run.errors import InputError
from hpcjobs.run.manifest import (
    LATEST,
    MANIFEST,
    Manifest,
    commit,
    committed_steps,
    newest_valid,
    prune,
    seal,
    step_dir,
    sweep,
    verify,
)


def make(checkpoints, step, content=b"weights" * 1000):
    partial = checkpoints / f"step-{step:08d}.partial"
    partial.mkdir(parents=True)
    (partial / "a.pt").write_bytes(content)
    (partial / "b.pt").write_bytes(b"optimizer")
    files = {name: seal(partial / name) for name in ("a.pt", "b.pt")}
    return commit(partial, Manifest(step=step, world_size=2, zero_stage=2, attempt=1, files=files))


def test_a_committed_checkpoint_is_found_and_named_as_the_latest(tmp_path):
    directory = make(tmp_path, 7)
    assert newest_valid(tmp_path) == (directory, [])
    assert (tmp_path / LATEST).read_text() == "step-00000007\n"
    assert verify(directory).step == 7


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    os.truncate(path, 0)


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def zero_a_page(path):
    content = bytearray(path.read_bytes())
    content[1000:5096] = bytes(4096)
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, empty, flip_a_byte, zero_a_page, os.unlink])
def test_a_damaged_checkpoint_is_passed_over_and_reported(tmp_path, damage):
    good = make(tmp_path, 1)
    bad = make(tmp_path, 2)
    damage(bad / "a.pt")
    found, problems = newest_valid(tmp_path)
    assert found == good
    assert len(problems) == 1
    assert "a.pt" in problems[0]
    assert "step-00000002" in problems[0]


def test_a_checkpoint_without_a_manifest_does_not_count(tmp_path):
    (make(tmp_path, 3) / MANIFEST).unlink()
    found, problems = newest_valid(tmp_path)
    assert found is None
    assert len(problems) == 1


def test_an_uncommitted_save_is_never_seen_and_is_swept(tmp_path):
    partial = tmp_path / "step-00000009.partial"
    partial.mkdir()
    (partial / "a.pt").write_bytes(b"half")
    assert newest_valid(tmp_path) == (None, [])
    sweep(tmp_path)
    assert not partial.exists()


@pytest.mark.parametrize("content", ["", "step-99999999\n", "../../etc\n", "garbage"])
def test_latest_is_only_advisory(tmp_path, content):
    directory = make(tmp_path, 4)
    (tmp_path / LATEST).write_text(content)
    assert newest_valid(tmp_path)[0] == directory


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 3, 10):
        make(tmp_path, step)
    assert prune(tmp_path, keep=2) == [1, 2]
    assert committed_steps(tmp_path) == [3, 10]


def test_a_step_that_is_saved_again_replaces_the_old_one(tmp_path):
    make(tmp_path, 5, b"old")
    make(tmp_path, 5, b"new")
    assert (step_dir(tmp_path, 5) / "a.pt").read_bytes() == b"new"


def test_a_manifest_cannot_point_out_of_its_directory(tmp_path):
    directory = make(tmp_path, 6)
    text = (directory / MANIFEST).read_text().replace('"a.pt"', '"../secret"')
    (directory / MANIFEST).write_text(text)
    with pytest.raises(InputError, match="outside the checkpoint"):
        verify(directory)
