"""What a disk refuses is named, with what to do; other errors are tried again."""

import errno
import os
from pathlib import Path

import pytest

from hpcjobs.train.__main__ import describe_failure


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "the disk of /runs/mine is full ([Errno 28] "),
        (errno.EDQUOT, "your quota on the disk of /runs/mine is used up ([Errno 122] "),
        (errno.EROFS, "the disk of /runs/mine is read-only ([Errno 30] "),
    ],
)
def test_a_disk_that_refuses_is_named_and_is_not_tried_again(number, said):
    error = OSError(number, os.strerror(number), "shard.pt")
    verdict = describe_failure(error, 1, Path("/runs/mine/attempts/3"))
    assert verdict.reason.startswith(said)
    assert verdict.reason.endswith("submit the run again, it goes on from its last checkpoint")
    assert (verdict.status, verdict.cause, verdict.rank) == ("never", "storage_full", 1)


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ETIMEDOUT])
def test_a_disk_that_may_recover_is_tried_again(number):
    error = OSError(number, os.strerror(number), "shard.pt")
    assert describe_failure(error, 0, Path("/runs/mine/attempts/3")).status == "failed"
