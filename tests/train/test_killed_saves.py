"""Saves under attack: kills at every boundary, a takeover, disks that refuse, foreign pickles.

Slow: some fifty attempts of a tiny DeepSpeed training on two ranks, forked from one server.
"""

import os
import pickle
import pwd
import shutil
import signal
import subprocess

import pytest
from runs import wait_until
from savings import Savings
from trainings import begin_attempt

from hpcjobs.run.fence import staging_dir
from hpcjobs.run.files import read_json, read_lines, sha256, write_json
from hpcjobs.run.manifest import MANIFEST, committed_steps, newest_valid, step_dir, verify

pytestmark = pytest.mark.slow

EVERY = 2
CALM = {"train.schedule": "constant", "train.warmup_ratio": 0}
"""No step depends on how many there will be."""
as_root = pytest.mark.skipif(os.getuid() != 0, reason="mounting and foreign owners need root")


@pytest.fixture(scope="module")
def savings(tmp_path_factory):
    server = Savings(tmp_path_factory.mktemp("killed"))
    yield server
    server.close()


def extend(run, steps):
    config = read_json(run.config)
    config["train"]["steps"] = steps
    write_json(run.config, config)


def test_a_kill_at_any_boundary_of_a_save_costs_at_most_one_interval(savings):
    """The last attempt of each rank is killed at no boundary any more: all were tried."""
    run = savings.run("killed", **CALM, **{"train.checkpoint.keep": 2})
    assert savings.train(run).codes == [0, 0]
    at, kills = 6, [0, 0]
    for rank in (0, 1):
        while True:
            extend(run, at + EVERY + 1)
            order = {"kill": [rank, kills[rank] + 1], "at_step": at + EVERY}
            ended = savings.train(run, **order)
            found, problems = newest_valid(run.checkpoints)
            assert problems == []
            reached = verify(found).step
            assert reached in (at, at + EVERY, at + EVERY + 1), "at most one interval is lost"
            at = reached
            if ended.codes == [0, 0]:
                break
            assert ended.codes[rank] == -signal.SIGKILL
            kills[rank] += 1
    assert kills[0] >= 12, "directory, three files, manifest, rename, latest, pruning"
    assert kills[1] >= 3
    undisturbed = savings.run("undisturbed", **CALM, **{"train.steps": at})
    assert savings.train(undisturbed).codes == [0, 0]
    states = [verify(step_dir(r.checkpoints, at)).files for r in (run, undisturbed)]
    assert states[0] == states[1], "bit-equal to the undisturbed run"
    assert [path.name for path in run.checkpoints.glob("*.rejected*")] == []


def test_a_stopped_attempt_that_wakes_up_after_a_newer_one_began_saves_nothing(savings):
    run = savings.run("stale", **CALM, **{"train.steps": 200})
    number = savings.begin(run, fsync_s=0.1, step_s=0.02)
    wait_until(lambda: len(committed_steps(run.checkpoints)) >= 2, "two checkpoints")
    staged = staging_dir(run.checkpoints, number)
    wait_until(lambda: any(staged.glob("step-*/rng-rank-00000.pt")), "a save that is all but done")
    for rank in (0, 1):
        savings.signal(run, number, rank, signal.SIGSTOP)
    newer = begin_attempt(run)
    known = committed_steps(run.checkpoints)
    for rank in (0, 1):
        savings.signal(run, number, rank, signal.SIGCONT)
    ended = savings.end(run, number)
    assert ended.codes == [3, 3]
    for verdict in ended.verdicts:
        assert verdict.status == "never"
        assert verdict.reason.startswith("a newer attempt has taken over")
    assert committed_steps(run.checkpoints) == known
    assert os.listdir(staging_dir(run.checkpoints, newer)) == []


@as_root
def test_a_rank_that_sees_other_files_than_rank_0_is_told_before_anything_is_loaded(savings):
    run = savings.run("blind")
    assert savings.train(run).codes == [0, 0]
    extend(run, 8)
    ended = savings.train(run, blind=1)
    assert ended.codes == [1, 1]
    newest = step_dir(run.checkpoints, 6)
    for verdict in ended.verdicts:
        assert verdict.reason == f"TimeoutError: rank 1 does not see {newest} as rank 0 does"
    assert savings.train(run).codes == [0, 0]


@pytest.fixture
def disk(tmp_path):
    """Mounts a real file system of its own for the checkpoints of a run."""
    mounted = []

    def mount(run, options):
        words = ["mount", "-t", "tmpfs", "-o", f"mode=0700,{options}", "tmpfs", run.checkpoints]
        if subprocess.run(words, capture_output=True).returncode:
            pytest.skip(f"this kernel mounts no tmpfs with {options}")
        mounted.append(run.checkpoints)

    yield mount
    for path in mounted:
        subprocess.run(["umount", "--lazy", path], check=True)


def make_read_only(path):
    """A file that is open for writing at this moment makes the kernel refuse."""
    words = ["mount", "-o", "remount,ro", path]
    wait_until(lambda: subprocess.run(words, capture_output=True).returncode == 0, "the remount")


@as_root
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("size=1m", "is full"),
        ("size=9m,usrquota,usrquota_block_hardlimit=1m", "quota"),
        ("size=9m", "read-only"),
    ],
    ids=["ENOSPC", "EDQUOT", "EROFS"],
)
def test_a_disk_that_refuses_is_named_and_the_last_good_checkpoint_stays(
    savings, disk, options, said
):
    run = savings.run(said, **{"train.steps": 400, "train.checkpoint.keep": 100})
    disk(run, options)
    number = savings.begin(run, width=128, step_s=0.02, bound=True)
    if said == "read-only":
        wait_until(lambda: committed_steps(run.checkpoints), "a checkpoint")
        make_read_only(run.checkpoints)
    ended = savings.end(run, number)
    for verdict in ended.verdicts:
        assert verdict.status == "never"
        assert said in verdict.reason
        assert str(run.path) in verdict.reason
    found, problems = newest_valid(run.checkpoints)
    assert found is not None
    assert problems == []
    assert [event["step"] for event in saves(run)] == committed_steps(run.checkpoints)


def saves(run):
    return [event for event in read_lines(run.events) if event["kind"] == "checkpoint"]


class Payload:
    """Unpickling it creates a file."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return (os.mkdir, (str(self.canary),))


def plant(run, step, canary, owner=None, mode=0o600):
    """A checkpoint that satisfies its manifest, and whose pickle would do harm."""
    planted = step_dir(run.checkpoints, step)
    shutil.copytree(step_dir(run.checkpoints, 6), planted)
    manifest = read_json(planted / MANIFEST)
    for path in planted.glob("*_states.pt"):
        path.write_bytes(pickle.dumps(Payload(canary)))
        path.chmod(mode)
        if owner is not None:
            os.chown(path, pwd.getpwnam(owner).pw_uid, -1)
        manifest["files"][path.name] = {
            "size_bytes": path.stat().st_size, "sha256": sha256(path),
        }  # fmt: skip
    write_json(planted / MANIFEST, manifest | {"step": step})


@as_root
@pytest.mark.parametrize(
    ("owner", "mode", "said"),
    [("nobody", 0o600, "belongs to nobody, not to you"), (None, 0o620, "can be changed by others")],
    ids=["foreign", "writable"],
)
def test_a_pickle_that_another_user_could_have_written_is_never_executed(
    savings, tmp_path, owner, mode, said
):
    run = savings.run(f"planted by {owner}")
    assert savings.train(run).codes == [0, 0]
    canary = tmp_path / "canary"
    plant(run, 7, canary, owner, mode)
    extend(run, 8)
    assert savings.train(run).codes == [0, 0]
    assert said in (run.path / "problems").read_text()
    assert not canary.exists()
    assert (run.checkpoints / "step-00000007.rejected").is_dir()
    assert committed_steps(run.checkpoints) == [2, 4, 6, 8]


@as_root
def test_a_place_that_a_group_can_write_is_refused_with_the_chmod_before_anything_is_read(savings):
    run = savings.run("shared")
    assert savings.train(run).codes == [0, 0]
    os.chown(run.checkpoints, -1, pwd.getpwnam("nobody").pw_gid)
    run.checkpoints.chmod(0o770)
    ended = savings.train(run, lambda _: run.checkpoints.chmod(0o770))
    assert ended.codes == [3, 3]
    for verdict in ended.verdicts:
        assert f"{run.checkpoints} can be written by the group nogroup" in verdict.reason
        assert "chmod g-w" in verdict.reason
