"""What the agent of one node saw: how its processes ended, and why it ended them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hpcjobs.run.errors import InputError
from hpcjobs.run.files import read_json, write_json


@dataclass(frozen=True)
class NodeEnd:
    """Written again at every change, so that a killed agent leaves what it knew."""

    host: str
    exits: dict[int, int | None] = field(default_factory=dict)
    """Exit code by rank; None for one that the agent itself had to kill."""
    complete: bool = False
    """Whether every process of the node has ended."""
    failed_at: float | None = None
    """When the first process was seen to have failed (Unix seconds)."""
    oom_kills: int | None = None
    """Processes that the kernel killed for memory on this node meanwhile; None is not known."""
    signals: tuple[str, ...] = ()
    """Stop signals that the agent heard."""
    forced: bool = False
    """Whether the broker had the processes killed, because the lead time was used up."""


def write_node_end(path: Path, end: NodeEnd) -> None:
    """Writes it atomically."""
    write_json(path, asdict(end))


def read_node_end(path: Path) -> NodeEnd | None:
    """Reads it; None where it is missing or cannot be read, which is no evidence."""
    try:
        value: dict[str, Any] = read_json(path)
        value["exits"] = {int(rank): code for rank, code in value["exits"].items()}
        value["signals"] = tuple(value["signals"])
        return NodeEnd(**value)
    except (InputError, TypeError, ValueError, KeyError, AttributeError):
        return None
