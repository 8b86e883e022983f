"""What became of an attempt, in words; exit codes only confirm it, since launchers lose them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from hpcjobs.run.errors import InputError
from hpcjobs.run.files import read_json, write_json

Status = Literal["done", "checkpointed", "failed", "never", "cancelled", "unknown"]
Cause = Literal[
    "done",
    "preempted",  # Slurm takes the nodes away
    "time_limit",
    "stopped",  # the job was asked to save and end
    "interrupted",  # a signal stopped the processes alone, and the allocation stays
    "cancelled",  # a person ended the job
    "crash",
    "hang",
    "node",  # a node is lost or unfit
    "storage_full",
    "card_memory",  # a card's memory does not hold a step
    "never",
    "unknown",
]


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
    cause: Cause | None = None
    """What the rules for another try go by; None where only the status is known."""
    root: str | None = None
    """First line of the failure without what differs from time to time, to compare attempts."""
    node: str | None = None
    """Host name of the node that the failure was on."""


def write_verdict(path: Path, verdict: Verdict) -> None:
    """Writes a verdict atomically."""
    write_json(path, asdict(verdict))


def read_verdict(path: Path) -> Verdict | None:
    """Reads a verdict; None where there is none or it cannot be read, which is no evidence."""
    try:
        return Verdict(**read_json(path))
    except (InputError, TypeError):
        return None
