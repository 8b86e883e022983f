"""The ledger of a project: GPU-hours that its submissions have taken, one JSON object a line.

A later line with the same id replaces the earlier one. What cannot be read is unknown, and
unknown spend stops a submission.
"""

import fcntl
import json
import math
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from hpcjobs.run.errors import ConfigError
from hpcjobs.run.schema import build

_PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Hours that one run takes: reserved at p95, later settled by what it took, or released."""

    id: str
    """The run directory."""
    project: str
    state: Literal["reserved", "settled", "released"]
    gpu_hours: float
    plan_hash: str
    user: str
    time: float
    """Unix seconds."""

    def __post_init__(self) -> None:
        """Refuses hours that would give something back, and what is no number."""
        if not (math.isfinite(self.gpu_hours) and self.gpu_hours >= 0):
            raise ConfigError(f"gpu_hours must be a number of at least 0, not {self.gpu_hours}")


def spent(entries: list[Entry], project: str, without: str | None = None) -> float:
    """GPU-hours of a project; those of the run ``without`` are left out."""
    last = {entry.id: entry for entry in entries if entry.project == project}
    return sum(e.gpu_hours for e in last.values() if e.state != "released" and e.id != without)


def refuse_beyond(path: Path, owners: frozenset[int], entry: Entry, total: float | None) -> None:
    """Looks whether ``reserve`` would succeed, and writes nothing.

    Raises:
        ConfigError: as ``reserve``.
    """
    with _locked(path, owners) as descriptor:
        _refuse(_entries(descriptor, path), entry, total)


def reserve(path: Path, owners: frozenset[int], entry: Entry, total: float | None) -> None:
    """Writes a reservation if the hours are still there; no two submissions get the same ones.

    Args:
        path: the ledger, which exists.
        owners: users whose file it may be.
        entry: the reservation; an earlier one of the same run is replaced.
        total: GPU-hours of the project; None is no limit.

    Raises:
        ConfigError: the hours are not there, another run has taken the plan, or what was spent
            cannot be known.
    """
    with _locked(path, owners) as descriptor:
        _refuse(_entries(descriptor, path), entry, total)
        _append(descriptor, entry, path)


def _refuse(entries: list[Entry], entry: Entry, total: float | None) -> None:
    _refuse_second_run(entries, entry)
    left = math.inf if total is None else total - spent(entries, entry.project, entry.id)
    if entry.gpu_hours > left:
        raise ConfigError(
            f"the plan's p95 of {entry.gpu_hours:.4g} GPU-hours is more than the "
            f"{max(0.0, left):.4g} that project {entry.project} has left of {total:.4g}"
        )


def release(path: Path, owners: frozenset[int], entry: Entry) -> None:
    """Gives a reservation back: the submission failed, nothing has run."""
    with _locked(path, owners) as descriptor:
        given_back = asdict(entry) | {"state": "released", "gpu_hours": 0.0, "time": time.time()}
        _append(descriptor, Entry(**given_back), path)


def _refuse_second_run(entries: list[Entry], entry: Entry) -> None:
    last = {other.id: other for other in entries}
    for other in last.values():
        same_plan = other.plan_hash == entry.plan_hash and other.state != "released"
        if same_plan and other.id != entry.id:
            raise ConfigError(
                f"the approved plan was used for {other.id} already: one approval is for one run"
            )


@contextmanager
def _locked(path: Path, owners: frozenset[int]) -> Iterator[int]:
    """Opens the ledger and keeps others out of it."""
    descriptor = _open(path, owners)
    try:
        _lock(descriptor, path)
        yield descriptor
    finally:
        os.close(descriptor)  # the lock goes with it


def _open(path: Path, owners: frozenset[int]) -> int:
    flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise ConfigError(
            f"what was spent is unknown: cannot use the ledger {path}: {error.strerror}; the "
            f"owner of the budget makes an empty one, writable by the project's group"
        ) from error
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_uid in owners and not status.st_mode & 0o002:
        return descriptor
    os.close(descriptor)
    raise ConfigError(
        f"what was spent is unknown: the ledger {path} must be a file of root or of an approver "
        f"that not everybody can write"
    )


def _lock(descriptor: int, path: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            # Not lockf: closing any other descriptor of the file would give that lock back.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"the ledger {path} has been locked by another process for "
                    f"{_PATIENCE_S:.0f} s: try again"
                ) from error
            time.sleep(0.05)
        else:
            return


def _entries(descriptor: int, path: Path) -> list[Entry]:
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        lines = file.read().splitlines(keepends=True)
    return [_entry(line, f"{path} line {number}") for number, line in enumerate(lines, 1)]


def _entry(line: bytes, where: str) -> Entry:
    whole = line.endswith(b"\n")
    try:
        raw: Any = json.loads(line) if whole else None  # a torn line is a number at best
        return build(Entry, raw)
    except (ValueError, RecursionError, ConfigError) as error:
        raise ConfigError(f"what was spent is unknown: {where}: {error}; mend that line") from error


def _append(descriptor: int, entry: Entry, path: Path) -> None:
    line = (json.dumps(asdict(entry), ensure_ascii=False) + "\n").encode()
    try:
        written = os.write(descriptor, line)
        os.fsync(descriptor)
    except OSError as error:
        raise ConfigError(f"cannot write the ledger {path}: {error.strerror}") from error
    if written < len(line):
        raise ConfigError(f"the disk of the ledger {path} is full: its last line must be mended")
