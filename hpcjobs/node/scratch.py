"""A private directory on the node's own disk for as long as an agent runs."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from hpcjobs.run.files import PRIVATE_DIR
from hpcjobs.run.layout import RunDir

_PLACES = ("SLURM_TMPDIR", "TMPDIR")


def scratch_path(run: RunDir, node: int, environment: Mapping[str, str]) -> Path:
    """Where the agent of one node of a run has its scratch: the same place in every attempt.

    So a new agent finds what a killed one has left there, processes included. The name is short
    and plain: sockets lie below it, and container options that cannot quote name it.
    """
    places = (environment.get(name, "") for name in _PLACES)
    base = next((place for place in places if place and Path(place).is_dir()), "/tmp")  # noqa: S108
    digest = hashlib.sha256(str(run.path).encode(errors="surrogateescape")).hexdigest()[:12]
    return Path(base) / f"hpcjobs-{os.getuid()}" / f"{digest}-n{node}"


@contextmanager
def open_scratch(path: Path) -> Iterator[Path]:
    """Makes the directory empty and private, and removes it at the end.

    In ``/tmp`` somebody else may have made the directory above it; then another name is taken.
    """
    scratch = path if _is_own(path.parent) else Path(tempfile.mkdtemp(prefix="hpcjobs-"))
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=PRIVATE_DIR, parents=True, exist_ok=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _is_own(directory: Path) -> bool:
    try:
        directory.mkdir(mode=PRIVATE_DIR, exist_ok=True)
        status = directory.lstat()
    except OSError:
        return False
    mine = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    return mine and stat.S_IMODE(status.st_mode) & 0o077 == 0
