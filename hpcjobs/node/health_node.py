"""What one node says of itself: room, memory, cards."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from hpcjobs.node.health_finding import Finding, at_least
from hpcjobs.node.health_gpu import gpu_findings
from hpcjobs.run.health_config import HealthSettings
from hpcjobs.run.layout import RunDir

_GIB = 1 << 30


def local_findings(
    run: RunDir, expected: int | None, settings: HealthSettings, environment: Mapping[str, str]
) -> list[Finding]:
    """Looks at this node alone; a figure that cannot be read is unknown.

    Args:
        run: its directory must have room, and be writable from here.
        expected: see ``gpu_findings``.
        settings: the limits.
        environment: names the scratch directory.
    """
    scratch = scratch_directory(environment)
    return [
        _there(run.path),
        _room("run_disk", run.path, settings.run_free_gib),
        _room("scratch", scratch, settings.scratch_free_gib),
        _writable(scratch),
        _room("shm", Path("/dev/shm"), settings.shm_free_gib),  # noqa: S108
        at_least(
            "memory", available_gib(_meminfo()), settings.memory_free_gib, "of memory free", "GiB"
        ),
        *gpu_findings(expected, settings),
    ]


def scratch_directory(environment: Mapping[str, str]) -> Path:
    """The node's own disk: $SLURM_TMPDIR, else $TMPDIR, else /tmp."""
    for name in ("SLURM_TMPDIR", "TMPDIR"):
        if environment.get(name):
            return Path(environment[name])
    return Path("/tmp")  # noqa: S108 - looked at, and written to under a random name


def available_gib(meminfo: str) -> float | None:
    r"""MemAvailable of ``/proc/meminfo`` (proc(5)); None where it is not said.

    >>> available_gib("MemTotal: 2097152 kB\nMemAvailable: 1048576 kB\n")
    1.0
    """
    for line in meminfo.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if name == "MemAvailable" and words and words[0].isdigit():
            return int(words[0]) / (1 << 20)
    return None


def _meminfo() -> str:
    try:
        return Path("/proc/meminfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _there(path: Path) -> Finding:
    """Whether this node sees the run directory: a mount may be missing on it alone."""
    try:
        next(path.iterdir(), None)
    except OSError as error:
        return Finding("run_mount", "bad", f"{path}: {error.strerror}")
    return Finding("run_mount", "ok", f"{path} is there")


def _room(name: str, path: Path, limit_gib: float) -> Finding:
    """Room that this user may fill; a place that is not there is bad."""
    try:
        status = os.statvfs(path)
    except OSError as error:
        return Finding(name, "bad", f"{path}: {error.strerror}", None, limit_gib)
    free = status.f_bavail * status.f_frsize / _GIB
    return at_least(name, free, limit_gib, f"free in {path}", "GiB")


def _writable(scratch: Path) -> Finding:
    """Writes a page: a disk that has turned read-only or is broken still shows free space."""
    try:
        with tempfile.TemporaryFile(dir=scratch) as file:
            file.write(os.urandom(4096))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return Finding("scratch_write", "bad", f"cannot write to {scratch}: {error.strerror}")
    return Finding("scratch_write", "ok", f"{scratch} can be written")
