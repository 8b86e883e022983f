"""What reads memory and time: torch's and the driver's counters, or a stand-in on the CPU."""

import resource
import subprocess
import time
from typing import Any, Protocol

import torch

from hpcjobs.train.dry_run.live_tensors import LiveTensors


class Meter(Protocol):
    """Memory and time of this process."""

    def begin(self) -> None:
        """Forgets the peak of what came before."""

    def forget_init(self) -> None:
        """Forgets everything that came before, the reserved pool too."""

    def peak_bytes(self) -> int:
        """The highest allocated memory since ``begin``."""

    def now(self) -> float:
        """Seconds, when all that was started is done."""

    def totals(self) -> dict[str, Any]:
        """The card, and reserved and process memory at their highest."""


class CudaMeter:
    """torch's own counters, and the driver's for the process."""

    def __init__(self) -> None:
        """Notes what others use of the card, before this process touches it."""
        self._cuda = torch.cuda
        self._before = _driver_used_bytes()
        self._reserved = 0
        self._cuda.init()

    def begin(self) -> None:
        """Forgets the peak of what came before."""
        self._reserved = max(self._reserved, self._cuda.max_memory_reserved())
        self._cuda.reset_peak_memory_stats()

    def forget_init(self) -> None:
        """The peak of the start must not count as the training's reserved memory."""
        self._cuda.empty_cache()
        self._cuda.reset_peak_memory_stats()
        self._reserved = 0

    def peak_bytes(self) -> int:
        """The highest allocated memory since ``begin``."""
        return int(self._cuda.max_memory_allocated())

    def now(self) -> float:
        """Seconds, when all that was started is done."""
        self._cuda.synchronize()
        return time.perf_counter()

    def totals(self) -> dict[str, Any]:
        """The card, and reserved and process memory at their highest."""
        free, total = self._cuda.mem_get_info()
        reserved = max(self._reserved, self._cuda.max_memory_reserved())
        return {
            "gpu": self._cuda.get_device_name(),
            "gpu_bytes": total,
            "reserved_bytes": reserved,
            # What the driver counts beside torch's pool is the context and the libraries.
            "process_bytes": total - free - self._before - self._cuda.memory_reserved() + reserved,
        }


class CpuMeter:
    """Stands in for a card to try the script out: live tensors, and the process's memory."""

    def __init__(self) -> None:
        """Follows all tensors from here on."""
        self._live = LiveTensors()
        self._live.__enter__()

    def begin(self) -> None:
        """Forgets the peak of what came before."""
        self._live.begin("phase")

    def forget_init(self) -> None:
        """Forgets everything that came before."""
        self._live.forget_highest()

    def peak_bytes(self) -> int:
        """The highest allocated memory since ``begin``."""
        return self._live.peak_bytes

    def now(self) -> float:
        """Seconds, when all that was started is done."""
        return time.perf_counter()

    def totals(self) -> dict[str, Any]:
        """The card, and reserved and process memory at their highest."""
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {"gpu": "cpu", "process_bytes": rss}


def _driver_used_bytes() -> int:
    """What is in use on the card before this process has touched it."""
    answer = subprocess.run(
        ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", "0"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(answer.stdout.split()[0]) << 20
