"""Writes are fenced by attempt: what an attempt leaves unfinished, a newer one makes impossible.

A lost node's processes may run on for minutes. Every attempt therefore prepares what it publishes
in a directory of its own, and publishes by a rename out of it. Opening a newer attempt takes that
directory away. A rename that comes later finds nothing to rename, whenever it was decided.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from hpcjobs.run.errors import InputError, RunHeldError
from hpcjobs.run.files import PRIVATE_DIR, make_private_dir, sync
from hpcjobs.run.layout import RunDir

_STAGING = re.compile(r"attempt-(\d+)\.staging")
_CLOSED = ".closed"
_TRIES = 50
_BETWEEN_TRIES_S = 0.1


def staging_dir(checkpoints: Path, attempt: int) -> Path:
    """Where an attempt prepares what it will publish.

    ``open_fence`` alone creates it: a process that finds it missing must end.
    """
    return checkpoints / f"attempt-{attempt}.staging"


def open_fence(run: RunDir, attempt: int) -> None:
    """Lets an attempt publish, and no older one any more; call it before its processes start.

    The own directory comes before the look at the others. Of two attempts that open at the same
    moment, the older one then sees the newer one and withdraws, or is taken away by it.

    Raises:
        RunHeldError: a newer attempt is open already.
        InputError: an older attempt's directory cannot be taken away.
        FileExistsError: the attempt was opened before; an attempt begins only once.
    """
    make_private_dir(run.checkpoints)
    own = staging_dir(run.checkpoints, attempt)
    own.mkdir(mode=PRIVATE_DIR)
    sync(run.checkpoints)
    others = _staged(run.checkpoints)
    if max(others) > attempt:
        _take_away(own)
        raise _taken_over(attempt)
    for number in others:
        if number < attempt:
            _take_away(staging_dir(run.checkpoints, number))
    for leftover in run.checkpoints.glob(f"attempt-*{_CLOSED}"):
        shutil.rmtree(leftover, ignore_errors=True)


def close_fence(run: RunDir, attempt: int) -> None:
    """Ends what an attempt may publish, once its verdict is drawn; opening a newer one does too."""
    _take_away(staging_dir(run.checkpoints, attempt))


@contextlib.contextmanager
def fenced(checkpoints: Path, attempt: int) -> Iterator[None]:
    """Says why a write of an attempt failed, where the reason is that a newer one is open.

    Raises:
        RunHeldError: the body failed, and the attempt's staging directory is gone.
    """
    try:
        yield
    except Exception as error:
        if staging_dir(checkpoints, attempt).is_dir():
            raise
        raise _taken_over(attempt) from error


def _staged(checkpoints: Path) -> list[int]:
    matches = (_STAGING.fullmatch(entry.name) for entry in checkpoints.iterdir())
    return sorted(int(match.group(1)) for match in matches if match)


def _take_away(staging: Path) -> None:
    """Renames a staging directory and empties it.

    The rename stops every writer that goes by its path. A writer on another NFS client may still
    know the directory by its handle for as long as attributes are cached, so nothing that it
    could publish may be left inside: neither a whole checkpoint nor a place to make one.
    """
    closed = staging.with_suffix(_CLOSED)
    shutil.rmtree(closed, ignore_errors=True)
    try:
        staging.rename(closed)
    except FileNotFoundError:
        return  # another process has done it
    sync(staging.parent)
    for _ in range(_TRIES):
        shutil.rmtree(closed, ignore_errors=True)
        if not any(closed.glob("*/*")):  # what stays are open files that NFS keeps as .nfs*
            return
        time.sleep(_BETWEEN_TRIES_S)
    raise InputError(f"cannot delete {closed}, which an older attempt has left: remove it by hand")


def _taken_over(attempt: int) -> RunHeldError:
    return RunHeldError(f"a newer attempt has taken over: attempt {attempt} saves nothing any more")
