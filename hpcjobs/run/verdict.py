"""What became of an attempt, in words; exit codes only confirm it, since launchers lose them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Optional

from hpcjobs.run.errors import InputError
from hpcjobs.run.files import read_json, write_json
from hpcjobs.run.layout import Attempt

Status = Literal["done", "checkpointed", "failed", "never", "cancelled", "unknown"]
Exits = Mapping[int, Optional[int]]


@dataclass(frozen=True)
class Verdict:
    """The end of one process or of a whole attempt.

    ``done``: finished. ``checkpointed``: stopped on request, resumable without loss.
    ``failed``: crashed. ``never``: would fail again, so it must not be tried again.
    ``cancelled``: a person ended it. ``unknown``: no evidence.
    """

    status: Status
    reason: str
    step: int | None = None
    """Optimizer steps that are safe in a committed checkpoint; None is not known."""
    rank: int | None = None
    """The process that says so, or that is to blame."""


def write_verdict(path: Path, verdict: Verdict) -> None:
    """Writes a verdict atomically."""
    write_json(path, asdict(verdict))


def read_verdict(path: Path) -> Verdict | None:
    """Reads a verdict; None where there is none or it cannot be read, which is no evidence."""
    try:
        return Verdict(**read_json(path))
    except (InputError, TypeError):
        return None


def conclude(attempt: Attempt, world_size: int, exits: Exits) -> Verdict:
    """Draws the attempt's verdict from what its processes wrote and how they ended.

    Args:
        attempt: the attempt's files.
        world_size: number of training processes.
        exits: exit code by rank; None or absent where the process was not seen to end.
    """
    said = {rank: read_verdict(attempt.rank_verdict(rank)) for rank in range(world_size)}
    return merge(said, exits)


def merge(said: Mapping[int, Verdict | None], exits: Exits) -> Verdict:
    """Merges the processes' verdicts: the worst wins, and rank 0 alone can say done.

    A rank that died without a word while others complain of it is the one to blame, since
    the complaint of its peers (connection reset) is only the echo.
    """
    spoken = [verdict for verdict in said.values() if verdict is not None]
    for verdict in spoken:
        if verdict.status == "never":
            return verdict
    silent = sorted(rank for rank, verdict in said.items() if verdict is None and exits.get(rank))
    if silent:
        codes = ", ".join(f"rank {rank} {describe_exit(exits[rank])}" for rank in silent)
        return Verdict("failed", codes, _step(spoken), silent[0])
    for verdict in spoken:
        if verdict.status == "failed":
            return verdict
    leader = said.get(0)
    if leader is not None:
        return leader
    return Verdict("unknown", "no process left a verdict", _step(spoken))


def describe_exit(code: int | None) -> str:
    """Says an exit code in words.

    >>> describe_exit(-9), describe_exit(3), describe_exit(None)
    ('was killed by signal 9', 'ended with exit code 3', 'was not seen to end')
    """
    if code is None:
        return "was not seen to end"
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


def _step(spoken: list[Verdict]) -> int | None:
    return max((v.step for v in spoken if v.step is not None), default=None)
