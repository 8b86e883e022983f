"""A checkpoint counts only if every byte is as it was when it was committed."""

import hashlib
import os
import threading

import pytest
from users import as_user

from hpcjobs.run.errors import InputError
from hpcjobs.run.manifest import (
    LATEST,
    MANIFEST,
    FileSeal,
    Manifest,
    commit,
    committed_steps,
    manifest_digest,
    newest_valid,
    prune,
    step_dir,
    verify,
    wait_for_latest,
    wait_until_visible,
)


def make(checkpoints, step, content=b"weights" * 1000):
    staged = checkpoints / "attempt-1.staging" / f"step-{step:08d}"
    staged.mkdir(parents=True, mode=0o700)
    files = {}
    for name, data in {"a.pt": content, "b.pt": b"optimizer"}.items():
        (staged / name).write_bytes(data)
        files[name] = FileSeal(size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    return commit(staged, Manifest(step=step, world_size=2, zero_stage=2, attempt=1, files=files))


def test_a_committed_checkpoint_is_found_and_named_as_the_latest(tmp_path):
    directory = make(tmp_path, 7)
    assert newest_valid(tmp_path) == (directory, [])
    assert (tmp_path / LATEST).read_text() == "step-00000007\n"
    assert verify(directory).step == 7


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def truncate_a_little(path):
    os.truncate(path, path.stat().st_size - path.stat().st_size // 1000)


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


@pytest.mark.parametrize(
    "damage", [truncate, truncate_a_little, empty, flip_a_byte, zero_a_page, os.unlink]
)
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


def test_an_uncommitted_save_is_never_seen(tmp_path):
    staged = tmp_path / "attempt-1.staging" / "step-00000009"
    staged.mkdir(parents=True)
    (staged / "a.pt").write_bytes(b"half")
    assert newest_valid(tmp_path) == (None, [])


@pytest.mark.parametrize(
    "content",
    ["", "step-99999999\n", "../../etc\n", "../x", "garbage", b"\xff\x00", "step-00000001"],
)
def test_latest_is_only_advisory(tmp_path, content):
    directory = make(tmp_path, 4)
    (tmp_path / LATEST).write_bytes(content if isinstance(content, bytes) else content.encode())
    wait_for_latest(tmp_path, wait_s=0.1)
    assert newest_valid(tmp_path)[0] == directory


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 3, 10):
        make(tmp_path, step)
    assert prune(tmp_path, 2, tmp_path / "attempt-1.staging") == [1, 2]
    assert committed_steps(tmp_path) == [3, 10]


def test_a_step_that_is_saved_again_replaces_the_old_one(tmp_path):
    make(tmp_path, 5, b"old")
    make(tmp_path, 5, b"new")
    assert (step_dir(tmp_path, 5) / "a.pt").read_bytes() == b"new"


def test_a_clock_that_was_set_back_changes_no_order(tmp_path):
    for step in (1, 2, 3):
        directory = make(tmp_path, step)
        os.utime(directory, (1_000_000 - step, 1_000_000 - step))
        os.utime(directory / MANIFEST, (1_000_000 - step, 1_000_000 - step))
    assert newest_valid(tmp_path)[0] == step_dir(tmp_path, 3)
    assert prune(tmp_path, 1, tmp_path / "attempt-1.staging") == [1, 2]


def test_a_checkpoint_that_appears_late_is_waited_for(tmp_path):
    """As on NFS, where rank 0 has committed what another node does not see yet."""
    make(tmp_path, 1)
    late = make(tmp_path, 2)
    digest = manifest_digest(late)
    hidden = late.rename(tmp_path / "hidden")
    appears = threading.Timer(0.5, lambda: hidden.rename(late))
    appears.start()
    wait_for_latest(tmp_path, wait_s=30)
    assert newest_valid(tmp_path) == (late, [])
    assert wait_until_visible(late, digest)
    appears.join()


def test_another_checkpoint_of_the_same_name_is_not_taken_for_the_chosen_one(tmp_path):
    directory = make(tmp_path, 1)
    assert not wait_until_visible(directory, "digest of what rank 0 has read", wait_s=0.3)


def test_a_file_that_the_manifest_does_not_name_is_not_read(tmp_path):
    """DeepSpeed looks for files by pattern, and unpickles what it finds."""
    directory = make(tmp_path, 1)
    (directory / "mp_rank_07_model_states.pt").write_bytes(b"payload")
    with pytest.raises(InputError, match=r"mp_rank_07_model_states\.pt is not named"):
        verify(directory)


def swap_for_a_link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: (d / "a.pt").chmod(0o620), "a.pt can be changed by others: .* chmod go-w"),
        (lambda d: (d / MANIFEST).chmod(0o602), "manifest.json can be changed by others"),
        (lambda d: d.chmod(0o770), "step-00000001 can be changed by others"),
        (lambda d: swap_for_a_link(d / "a.pt"), "a.pt is no regular file"),
        (swap_for_a_link, "step-00000001 is no directory"),
    ],
    ids=["file", "manifest", "directory", "link", "linked directory"],
)
def test_what_others_could_have_written_is_not_read(tmp_path, change, said):
    directory = make(tmp_path, 1)
    change(directory)
    with pytest.raises(InputError, match=said):
        verify(directory)


@pytest.mark.skipif(os.getuid() != 0, reason="becoming another user needs root")
def test_what_another_user_owns_is_not_read(tmp_path):
    for directory in (make(tmp_path, 1), tmp_path, *tmp_path.parents):
        directory.chmod(directory.stat().st_mode | 0o755)
    with pytest.raises(InputError, match="step-00000001 belongs to root, not to you: it is not"):
        as_user("nobody", verify, step_dir(tmp_path, 1))


def test_a_manifest_cannot_point_out_of_its_directory(tmp_path):
    directory = make(tmp_path, 6)
    text = (directory / MANIFEST).read_text().replace('"a.pt"', '"../secret"')
    (directory / MANIFEST).write_text(text)
    with pytest.raises(InputError, match="outside the checkpoint"):
        verify(directory)
