"""What the training measures, one JSON line a step, written by rank 0."""

import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hpcjobs.run.files import append_line

_GIB = 1 << 30
_KIB = 1 << 10


@dataclass
class StepClock:
    """Splits the time of a step into waiting for data and computing."""

    began: float = field(default_factory=time.monotonic)
    waited_s: float = 0.0

    def waiting(self) -> "_Waiting":
        """A context that counts as waiting for data."""
        return _Waiting(self)

    def lap(self) -> tuple[float, float]:
        """Seconds since the last lap, and the share of them spent waiting; starts a new one."""
        now = time.monotonic()
        step_s = now - self.began
        share = self.waited_s / step_s if step_s > 0 else 0.0
        self.began, self.waited_s = now, 0.0
        return step_s, share


class _Waiting:
    def __init__(self, clock: StepClock) -> None:
        self._clock = clock

    def __enter__(self) -> None:
        self._from = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._clock.waited_s += time.monotonic() - self._from


def memory_gib(device: torch.device) -> dict[str, float]:
    """Peak memory of this process in GiB: allocated and reserved on a card, resident on a CPU."""
    if device.type == "cuda":
        return {
            "peak_allocated_gib": torch.cuda.max_memory_allocated(device) / _GIB,
            "peak_reserved_gib": torch.cuda.max_memory_reserved(device) / _GIB,
        }
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB
    return {"peak_resident_gib": peak_bytes / _GIB}


def batch_shape(micro_batches: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, int]:
    """What this process computes in a step: positions with padding, the longest row, pictures.

    Step time and memory follow these, not the labelled tokens.
    """
    shapes = [batch["input_ids_BL"].shape for batch in micro_batches]
    return {
        "positions": sum(rows * length for rows, length in shapes),
        "longest": max(length for _, length in shapes),
        "pictures": sum(len(batch["pictures_P3HH"]) for batch in micro_batches),
    }


def device_name(device: torch.device) -> str:
    """The card's name as its driver says it; ``CPU`` without a card."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def write_metric(path: Path, kind: str, **fields: Any) -> None:  # noqa: ANN401
    """Appends one line of kind ``train`` or ``heldout``."""
    append_line(path, {"kind": kind, "time": round(time.time(), 3), **fields})
