"""Where the time goes between the start of a process and its first step."""

import os
import time
from pathlib import Path


class Startup:
    """Marks the ends of the phases of a start; the first begins with the process itself."""

    def __init__(self) -> None:
        """Begins with the process, whenever this is called."""
        self.started_at = time.time() - _age_s()
        self._ended_at = self.started_at
        self._phases: dict[str, float] = {}

    def mark(self, phase: str) -> None:
        """Ends a phase now."""
        now = time.time()
        self._phases[f"{phase}_s"] = round(now - self._ended_at, 3)
        self._ended_at = now

    def report(self) -> dict[str, float]:
        """When the process began (Unix seconds), and the seconds of every phase so far."""
        return {"started_at": round(self.started_at, 3), **self._phases}


def _age_s() -> float:
    """Seconds since this process was started (proc(5): stat field 22, uptime)."""
    fields = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    uptime_s = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    return max(0.0, uptime_s - int(fields[19]) / os.sysconf("SC_CLK_TCK"))
