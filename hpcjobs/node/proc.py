"""Processes as the kernel shows them in /proc; whatever cannot be read is unknown, never zero."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_KIB = 1 << 10
_POLL_S = 0.05


@dataclass(frozen=True)
class ProcessView:
    """One process at one moment."""

    pid: int
    parent: int
    state: str
    """R runs, S waits, D waits for a device or file system, T is stopped, t is traced, Z ended."""
    catches_usr1: bool
    """It has a handler for SIGUSR1, which would kill it otherwise."""
    memory_bytes: int
    """Resident and not droppable: its own pages and shared memory, not those of files."""


def view_process(pid: int) -> ProcessView | None:
    """Reads one process; None once it is gone or where it cannot be read.

    >>> view_process(os.getpid()).state
    'R'
    """
    try:
        text = (_PROC / str(pid) / "status").read_text(errors="replace")
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    caught = int(fields.get("SigCgt", "0").strip(), 16)
    kib = sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem") if name in fields)
    return ProcessView(
        pid,
        int(fields.get("PPid", "0")),
        fields.get("State", "?").split()[0],
        bool(caught >> (signal.SIGUSR1 - 1) & 1),
        kib * _KIB,
    )


def families(roots: Iterable[int]) -> dict[int, list[ProcessView]]:
    """Each process with its descendants, itself first; empty once it is gone."""
    children: dict[int, list[ProcessView]] = {}
    everyone: dict[int, ProcessView] = {}
    for view in filter(None, map(view_process, _pids())):
        everyone[view.pid] = view
        children.setdefault(view.parent, []).append(view)
    found = {}
    for root in roots:
        members = [everyone[root]] if root in everyone else []
        for member in members:  # grows while it is walked
            members.extend(children.get(member.pid, []))
        found[root] = members
    return found


def marked(mark: str) -> list[int]:
    """Processes that were started with ``mark`` in their environment, however far they went.

    A child that left its session and its parent is still among them.
    """
    words = mark.encode()
    return [pid for pid in _pids() if pid != os.getpid() and _carries(pid, words)]


def end_marked_processes(mark: str, wait_s: float) -> list[int]:
    """Kills every process that carries ``mark``, until none is left; returns those that are.

    A process that waits for a device or a dead file system (state D) dies only when that answers.
    """
    deadline = time.monotonic() + wait_s
    while left := _not_ended(marked(mark)):
        for pid in left:
            _kill(pid)
        if time.monotonic() > deadline:
            return left
        time.sleep(_POLL_S)
    return []


def _not_ended(pids: Iterable[int]) -> list[int]:
    views = (view_process(pid) for pid in pids)
    return [view.pid for view in views if view is not None and view.state not in "ZX"]


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _carries(pid: int, words: bytes) -> bool:
    try:
        return words in (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _pids() -> list[int]:
    return [int(path.name) for path in _PROC.iterdir() if path.name.isdigit()]


def this_host() -> str:
    """The name of this node, as Slurm calls it where it does."""
    return os.environ.get("SLURMD_NODENAME", os.uname().nodename)


def memory_limit_bytes(environment: Mapping[str, str]) -> int | None:
    """The least of this node's limits: control group, Slurm's memory a node, what is installed."""
    limits = [_cgroup_limit(), _slurm_limit(environment), _installed()]
    known = [limit for limit in limits if limit is not None and limit > 0]
    return min(known, default=None)


def _slurm_limit(environment: Mapping[str, str]) -> int | None:
    words = environment.get("SLURM_MEM_PER_NODE", "")  # MiB; 0 is all of the node
    return int(words) << 20 if words.isdigit() else None


def _installed() -> int | None:
    try:
        lines = (_PROC / "meminfo").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("MemTotal:")).split()[1]) * _KIB
    except (OSError, StopIteration, ValueError):
        return None


def _cgroup_limit() -> int | None:
    """The tightest limit of this process's control groups, version 2 or 1, up to the root."""
    found: list[int] = []
    try:
        lines = (_PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers == "":
            found += _limits(Path("/sys/fs/cgroup"), place, "memory.max")
        elif "memory" in controllers.split(","):
            found += _limits(Path("/sys/fs/cgroup/memory"), place, "memory.limit_in_bytes")
    return min(found, default=None)


def _limits(root: Path, place: str, name: str) -> list[int]:
    found = []
    here = root / place.lstrip("/")
    for directory in (here, *here.parents):
        if not directory.is_relative_to(root):
            break
        try:
            text = (directory / name).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            found.append(int(text))
    return found
