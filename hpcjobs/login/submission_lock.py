"""One submission at a time on a run directory, from the last look at it to the hand-over."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from hpcjobs.run.errors import InputError, RunHeldError
from hpcjobs.run.files import PRIVATE_FILE, make_private_dir, read_json
from hpcjobs.run.holder import Holder, local_alive, this_process
from hpcjobs.run.layout import RunDir


@contextmanager
def submission_lock(run: RunDir) -> Iterator[None]:
    """Makes the run directory and keeps other submissions out of it.

    Raises:
        RunHeldError: another submission is at work here, or may be.
        InputError: the directory cannot be made.
    """
    try:
        make_private_dir(run.path)
        _take(run)
    except OSError as error:
        raise InputError(
            f"cannot write the run directory {run.path}: {error.strerror}; write another runs_dir "
            f"or run_dir"
        ) from error
    try:
        yield
    finally:
        run.submitting.unlink(missing_ok=True)
        with suppress(OSError):  # a new directory into which nothing was written
            run.path.rmdir()


def _take(run: RunDir) -> None:
    if _create(run.submitting):
        return
    _refuse_living(run)
    run.submitting.unlink(missing_ok=True)
    if not _create(run.submitting):
        raise RunHeldError(f"{run.path} is being submitted by another process at this moment")


def _create(path: Path) -> bool:
    """Creates the lock with its content in one step; False where there is one already."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(this_process(None)), file)
        path.hardlink_to(partial)
    except FileExistsError:
        return False
    except OSError:
        return _rename(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return True


def _rename(partial: Path, path: Path) -> bool:
    """Does in two steps what a file system without hard links cannot do in one."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE))
    except FileExistsError:
        return False
    partial.replace(path)
    return True


def _refuse_living(run: RunDir) -> None:
    try:
        other = Holder(**read_json(run.submitting))
    except (InputError, TypeError):
        return  # gone by now, or never whole
    alive = local_alive(other)
    if alive is None:
        raise RunHeldError(
            f"{run.path} is or was being submitted by {other.describe()}; if that does not run any "
            f"more, remove {run.submitting}"
        )
    if alive:
        raise RunHeldError(
            f"{run.path} is being submitted by {other.describe()}; wait for that, or use another "
            f"run_dir"
        )
