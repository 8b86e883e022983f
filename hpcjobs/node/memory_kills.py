"""What the kernel killed for memory."""

from __future__ import annotations

from pathlib import Path


def memory_kills(vmstat: Path = Path("/proc/vmstat")) -> int | None:
    """Processes that the kernel has killed for memory on this node since it was booted.

    It counts those of control groups, such as a job's ``--mem``, and those of the whole node
    (proc(5), ``oom_kill``), and everybody may read it. None where the kernel does not count.
    """
    try:
        lines = vmstat.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    values = [line.split()[-1] for line in lines if line.startswith("oom_kill ")]
    return int(values[0]) if values and values[0].isdigit() else None
