"""Asks processes that stand still for their stacks, and waits a bounded time for the answers."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hpcjobs.node.proc import ProcessView, families
from hpcjobs.run.beat import dump_paths

_SETTLED_S = 0.5
_KEEP_BYTES = 1 << 20


@dataclass(frozen=True)
class Dump:
    """What one process wrote."""

    file: str
    text: str

    @property
    def is_loader(self) -> bool:
        """Whether a loader process wrote it."""
        return ".worker-" in self.file


class StackRequest:
    """One request for the stacks of a rank's processes."""

    def __init__(self, beats: Path, rank: int, family: list[ProcessView]) -> None:
        """Signals every process of the rank that can answer.

        Only a process that has a handler is signalled: SIGUSR1 would kill any other, such as a
        rank that has not yet begun, or a program that wraps it.

        Args:
            beats: the directory that the ranks beat in.
            rank: the rank.
            family: the process that the agent started for it, and its descendants.
        """
        self._beats, self._rank = beats, rank
        self._before = {path: _size(path) for path in dump_paths(beats, rank)}
        self.family = family
        able = [view for view in family if view.catches_usr1]
        self._may_answer = any(view.state not in "TtZD" for view in able)
        self._sizes: dict[Path, int] = {}
        self._changed_s: float | None = None
        for view in able:
            _signal(view.pid)

    def settled(self, now_s: float) -> bool:
        """Whether the answers have come and grow no more; at once where none can come."""
        if not self._may_answer:
            return True
        sizes = {path: _size(path) for path in dump_paths(self._beats, self._rank)}
        if self._changed_s is None or sizes != self._sizes:
            self._sizes, self._changed_s = sizes, now_s
            return False
        grown = any(size > self._before.get(path, 0) for path, size in sizes.items())
        return grown and now_s - self._changed_s >= _SETTLED_S

    def dumps(self) -> list[Dump]:
        """What was written since the request, the rank's own process first."""
        found = []
        for path in dump_paths(self._beats, self._rank):
            text = _read_from(path, self._before.get(path, 0))
            if text:
                found.append(Dump(path.name, text))
        return found


def request_stacks(beats: Path, pids: Mapping[int, int]) -> dict[int, StackRequest]:
    """Asks all processes of several ranks; ``pids`` is the one that was started for each rank."""
    members = families(pids.values())
    return {rank: StackRequest(beats, rank, members[pid]) for rank, pid in pids.items()}


def _signal(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGUSR1)
    except (ProcessLookupError, PermissionError):
        return


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _read_from(path: Path, offset: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(_KEEP_BYTES).decode(errors="replace")
    except OSError:
        return ""
