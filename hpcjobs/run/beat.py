"""The heartbeat of one training process: a small record, overwritten in place."""

from __future__ import annotations

import math
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

BEATS_VARIABLE = "HPCJOBS_BEATS"
"""Names the directory, local to a node, that the processes beat in."""

PHASES = (
    "start", "load", "data", "forward", "backward", "step", "collective", "save", "heldout",
    "export", "done",
)  # fmt: skip
"""What a process can be doing; ``done`` is all of it done."""

_VERSION = 1
_FIELDS = struct.Struct("<IIIIIIQQqqddddQQQQ")
_CHECK = struct.Struct("<I")
RECORD_BYTES = _FIELDS.size + _CHECK.size


@dataclass(frozen=True)
class Beat:
    """Where a process was when it last wrote; every rank passes the same points in one order."""

    rank: int
    pid: int
    sequence: int
    """Counts every write: a number that stands still is a process that does."""
    lap: int
    """Turns of the training loop that were begun in this attempt; 0 before the loop."""
    point: int
    """Points passed since the lap began: with the lap, how far this rank is among the others."""
    phase: str
    micro: int
    """Micro batch within the optimizer step, from 0."""
    step: int
    """Optimizer steps that are complete."""
    steps: int
    """Optimizer steps of the whole training; 0 where it is not known yet."""
    at_s: float
    """Monotonic clock of the node."""
    step_s: float | None
    """Median duration of the recent laps; None before there were three."""
    data_s: float
    """Time spent waiting for data, in all."""
    compute_s: float
    """Time spent in forward passes, in all: on a card by its own clock."""
    resident_bytes: int
    allocated_bytes: int
    """Held by tensors on the card; 0 without one."""
    reserved_bytes: int
    """Held by torch's allocator on the card; 0 without one."""
    card_bytes: int
    """Memory of the card; 0 without one."""

    @property
    def place(self) -> tuple[int, int]:
        """How far this rank has come, comparable between the ranks of an attempt."""
        return (self.lap, self.point)


def beat_path(beats: Path, rank: int) -> Path:
    """The file that one rank overwrites."""
    return beats / f"beat-{rank}"


def dump_paths(beats: Path, rank: int) -> list[Path]:
    """Where a rank's processes dump their stacks: its own file first, then its loaders'."""
    return [dump_path(beats, rank), *sorted(beats.glob(f"stacks-{rank}.worker-*"))]


def dump_path(beats: Path, rank: int, worker: int | None = None) -> Path:
    """The file that one process dumps its stacks into."""
    return beats / (f"stacks-{rank}" if worker is None else f"stacks-{rank}.worker-{worker}")


def encode_beat(beat: Beat) -> bytes:
    """The record, closed by a checksum: a reader in the middle of a write can tell."""
    content = _FIELDS.pack(
        _VERSION, beat.rank, beat.pid, PHASES.index(beat.phase), beat.micro, beat.point,
        beat.sequence, beat.lap, beat.step, beat.steps, beat.at_s,
        math.nan if beat.step_s is None else beat.step_s, beat.data_s, beat.compute_s,
        beat.resident_bytes, beat.allocated_bytes, beat.reserved_bytes, beat.card_bytes,
    )  # fmt: skip
    return content + _CHECK.pack(zlib.crc32(content))


def decode_beat(record: bytes) -> Beat | None:
    """The inverse; None for a torn record, one of another version, or anything else."""
    if len(record) != RECORD_BYTES:
        return None
    content = record[: _FIELDS.size]
    if _CHECK.unpack(record[_FIELDS.size :])[0] != zlib.crc32(content):
        return None
    (version, rank, pid, phase, micro, point, sequence, lap, step, steps, at_s, step_s, data_s,
     compute_s, resident, allocated, reserved, card) = _FIELDS.unpack(content)  # fmt: skip
    if version != _VERSION or phase >= len(PHASES):
        return None
    return Beat(
        rank, pid, sequence, lap, point, PHASES[phase], micro, step, steps, at_s,
        None if math.isnan(step_s) else step_s, data_s, compute_s,
        resident, allocated, reserved, card,
    )  # fmt: skip


def read_beat(path: Path) -> Beat | None:
    """The last beat; None where there is none yet, or where a write was caught in the middle."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        return decode_beat(os.pread(descriptor, RECORD_BYTES + 1, 0))
    except OSError:
        return None
    finally:
        os.close(descriptor)
