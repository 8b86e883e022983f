"""The container as the nodes are told of it: which image exactly, and which paths are seen inside.

Made at the submission, part of the launch file; read by Python 3.9 and later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Seal:
    """What tells without reading it that a file is the one that was hashed.

    Size and times can be set by whoever may write the file, but not the time of the last change
    of the inode (ctime): only root can, or who sets the clock. A file system that shows another
    inode on another machine costs one more reading, never a wrong image.
    """

    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    inode: int


@dataclass(frozen=True)
class Mount:
    """One path of the machine that is seen inside."""

    source: str
    target: str
    read_only: bool


@dataclass(frozen=True)
class ContainerPlan:
    """Everything that the start of one training process in the container depends on."""

    kind: str
    image: str
    digest: str
    """``image_digest`` at the submission."""
    seal: Seal | None
    """Of the file with that digest; None for a sandbox directory, which is looked through."""
    mounts: tuple[Mount, ...]
    gpu: str
    python: str
    hf_home: str | None = None
    cache_dir: str | None = None


def seal_of(path: Path) -> Seal:
    """Looks at a file without reading it.

    Raises:
        OSError: it cannot be seen.
    """
    status = path.stat()
    return Seal(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def container_plan(raw: Mapping[str, Any]) -> ContainerPlan:
    """Reads the plan as the launch file holds it.

    Raises:
        TypeError: another version wrote it.
    """
    seal = raw["seal"]
    return ContainerPlan(
        **{
            **raw,
            "seal": None if seal is None else Seal(**seal),
            "mounts": tuple(Mount(**mount) for mount in raw["mounts"]),
        }
    )
