"""An attempt that a newer one has replaced can publish nothing, whatever the moment.

Real processes are stopped at random moments and go on after the newer attempt has begun.
"""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import wait_until

from hpcjobs.run.errors import RunHeldError
from hpcjobs.run.fence import close_fence, fenced, open_fence, staging_dir
from hpcjobs.run.layout import RunDir
from hpcjobs.run.manifest import committed_steps, newest_valid

WRITER = """
import sys
from pathlib import Path
from hpcjobs.run.errors import RunHeldError
from hpcjobs.run.fence import fenced, staging_dir
from hpcjobs.run.manifest import FileSeal, Manifest, commit, prune
from hpcjobs.run.files import sha256
run, attempt = Path(sys.argv[1]), int(sys.argv[2])
staging = staging_dir(run / "checkpoints", attempt)
print("ready", flush=True)
try:
    for step in range(1, 1_000_000):
        with fenced(run / "checkpoints", attempt):
            staged = staging / f"step-{attempt:02d}{step:06d}"
            staged.mkdir(mode=0o700)
            file = staged / "a.pt"
            file.write_bytes(b"weights" * 1000)
            file.chmod(0o600)
            seal = FileSeal(size_bytes=7000, sha256=sha256(file))
            number = int(staged.name[5:])
            commit(staged, Manifest(step=number, world_size=1, zero_stage=0, attempt=attempt,
                                    files={"a.pt": seal}))
            prune(run / "checkpoints", 3, staging)
except RunHeldError as error:
    sys.exit(f"never: {error}")
"""


def write(run, attempt):
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, run.path, str(attempt)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def is_stopped(process):
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_a_writer_that_is_stopped_at_any_moment_commits_nothing_after_a_newer_one_began(tmp_path):
    run, chance = RunDir(tmp_path), random.Random(4)
    open_fence(run, 1)
    for attempt in range(1, 13):
        writer = write(run, attempt)
        assert writer.stdout.readline() == "ready\n"
        before = committed_steps(run.checkpoints)
        wait_until(lambda old=before: committed_steps(run.checkpoints) != old, "a commit")
        time.sleep(chance.uniform(0, 0.03))
        writer.send_signal(signal.SIGSTOP)
        wait_until(lambda stopped=writer: is_stopped(stopped), "the stop")
        open_fence(run, attempt + 1)
        known = committed_steps(run.checkpoints)
        writer.send_signal(signal.SIGCONT)
        _, said = writer.communicate(timeout=60)
        assert said.startswith("never: a newer attempt has taken over")
        assert committed_steps(run.checkpoints) == known
        found, problems = newest_valid(run.checkpoints)
        assert (found.name, problems) == (f"step-{known[-1]:08d}", [])
    assert [path.name for path in run.checkpoints.glob("attempt-*")] == ["attempt-13.staging"]


def try_to_open(path, attempt, go):
    go.wait()
    try:
        open_fence(RunDir(path), attempt)
    except RunHeldError:
        sys.exit(5)


def test_of_attempts_that_open_at_the_same_moment_the_newest_alone_can_publish(tmp_path):
    context = multiprocessing.get_context("fork")
    for turn in range(10):
        run, go = RunDir(tmp_path / str(turn)), context.Event()
        openers = [
            context.Process(target=try_to_open, args=(run.path, attempt, go))
            for attempt in range(1, 6)
        ]
        for opener in openers:
            opener.start()
        go.set()
        for opener in openers:
            opener.join(timeout=60)
        assert openers[-1].exitcode == 0
        assert {opener.exitcode for opener in openers} <= {0, 5}
        assert [p.name for p in run.checkpoints.iterdir()] == ["attempt-5.staging"]


def test_an_older_attempt_cannot_begin_after_a_newer_one(tmp_path):
    run = RunDir(tmp_path)
    open_fence(run, 3)
    with pytest.raises(RunHeldError, match="a newer attempt has taken over: attempt 2 saves"):
        open_fence(run, 2)
    assert [path.name for path in run.checkpoints.iterdir()] == ["attempt-3.staging"]


def test_an_attempt_begins_only_once(tmp_path):
    open_fence(RunDir(tmp_path), 1)
    with pytest.raises(FileExistsError):
        open_fence(RunDir(tmp_path), 1)


def test_nothing_is_left_of_what_an_older_attempt_had_staged(tmp_path):
    """Another NFS client may know the old directory by its handle: it must find it empty."""
    run = RunDir(tmp_path)
    open_fence(run, 1)
    old = staging_dir(run.checkpoints, 1)
    (old / "step-00000007").mkdir()
    (old / "step-00000007" / "a.pt").write_text("half")
    handle = os.open(old, os.O_RDONLY)
    open_fence(run, 2)
    with pytest.raises(FileNotFoundError):
        os.rename("step-00000007", "step-00000008", src_dir_fd=handle, dst_dir_fd=handle)
    with pytest.raises(FileNotFoundError):
        os.mkdir("step-00000009", dir_fd=handle)
    os.close(handle)


def test_after_its_end_an_attempt_publishes_nothing(tmp_path):
    run = RunDir(tmp_path)
    open_fence(run, 1)
    close_fence(run, 1)
    with pytest.raises(RunHeldError), fenced(run.checkpoints, 1):
        (staging_dir(run.checkpoints, 1) / "step-00000001").mkdir()
    assert list(run.checkpoints.iterdir()) == []
    open_fence(run, 2)


def test_an_error_that_has_nothing_to_do_with_the_fence_stays_what_it_is(tmp_path):
    run = RunDir(tmp_path)
    open_fence(run, 1)
    with pytest.raises(OSError, match="full"), fenced(run.checkpoints, 1):
        raise OSError("full")
