"""Files that a command writes for its user: replaced in one step, and never anything but files."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from planner.errors import PlannerError

_MODE = 0o600


def check_outputs(paths: Sequence[Path]) -> None:
    """Refuses what could not be written, before anything is.

    Raises:
        PlannerError: two names of one file, a device, a directory, or a place without rights.
    """
    seen: dict[Path, Path] = {}
    for path in paths:
        place = _place(path)
        if place in seen:
            raise PlannerError(f"{path} and {seen[place]} are one file: name two")
        seen[place] = path


def replace_file(path: Path, content: bytes) -> None:
    """Replaces a file in one step, readable by the owner only; a link leads to what it names.

    Raises:
        PlannerError: the file cannot be written, or the name is that of something else.
    """
    place = _place(path)
    partial = place.with_name(f".{place.name}.{os.getpid()}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _MODE)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(place)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise PlannerError(f"cannot write {path}: {error.strerror}") from error


def _place(path: Path) -> Path:
    """Where a name leads to, once it is known that a file may lie there.

    Raises:
        PlannerError: it may not.
    """
    place = Path(os.path.realpath(path))
    try:
        if not stat.S_ISDIR(place.parent.stat().st_mode):
            raise PlannerError(f"cannot write {path}: {place.parent} is no directory")
        if not os.access(place.parent, os.W_OK | os.X_OK):
            raise PlannerError(f"cannot write {path}: no right to write in {place.parent}")
        mode = place.lstat().st_mode
    except FileNotFoundError as error:
        if place.parent.is_dir():
            return place
        raise PlannerError(f"cannot write {path}: {error.strerror}") from error
    except OSError as error:
        raise PlannerError(f"cannot write {path}: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        what = "Is a directory" if stat.S_ISDIR(mode) else "it is no regular file"
        raise PlannerError(f"cannot write {path}: {what}; name a file")
    return place
