"""How fast the processes' own collectives are, measured once they have met."""

import time
from typing import Any

import torch
from torch import distributed as dist

from hpcjobs.run.errors import InputError
from hpcjobs.run.events import record_event
from hpcjobs.run.files import read_json
from hpcjobs.run.layout import Attempt, RunDir
from hpcjobs.train.process import Process

_VALUES = 1 << 20
_BYTES = 4 * _VALUES
_REPEATS = 3
_MIB = 1 << 20


def time_all_reduce(process: Process) -> float | None:
    """MiB a second that a ring all-reduce of 4 MiB moves over each link; None for one process.

    All ranks call it. Each link carries 2 (n - 1) / n of the buffer (Patarasuk and Yuan 2009,
    JPDC 69-2); the fastest of three counts, since the first one sets up connections.
    """
    if process.world_size == 1:
        return None
    buffer = torch.ones(_VALUES, dtype=torch.float32, device=process.device)
    seconds = min(_one(buffer, process.device) for _ in range(_REPEATS))
    moved_mib = 2 * (process.world_size - 1) / process.world_size * _BYTES / _MIB
    return moved_mib / seconds


def _one(buffer: torch.Tensor, device: torch.device) -> float:
    """Seconds of one all-reduce; a fresh start for all, so that nobody's lateness counts."""
    dist.all_reduce(torch.zeros(1, device=device))
    _wait(device)
    began = time.perf_counter()
    dist.all_reduce(buffer)
    _wait(device)
    return max(time.perf_counter() - began, 1e-6)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def report_network(run: RunDir, attempt: int, mib_s: float | None, limit_mib_s: float) -> None:
    """Names the slowest link of the look at the nodes where the collectives are slow; rank 0."""
    if mib_s is None or mib_s >= limit_mib_s:
        return
    record_event(
        run, "slow_network", attempt=attempt, all_reduce_mib_s=round(mib_s, 1), limit=limit_mib_s,
        slowest_link=slowest_link(run.attempt(attempt)),
    )  # fmt: skip


def slowest_link(attempt: Attempt) -> str | None:
    """The slowest of the links that the nodes measured before the start; None if none did."""
    reports = {raw["node"]: raw for raw in _reports(attempt)}
    measured = [raw for raw in reports.values() if raw["link_mib_s"] is not None]
    if not measured:
        return None
    worst = min(measured, key=lambda raw: float(raw["link_mib_s"]))
    source = reports.get(worst["link_from"], {"host": f"node {worst['link_from']}"})["host"]
    return f"{source} to {worst['host']}: {worst['link_mib_s']:.0f} MiB/s"


def _reports(attempt: Attempt) -> list[dict[str, Any]]:
    found = []
    for path in sorted(attempt.path.glob("health-node-*.json")):
        try:
            raw = read_json(path)
        except InputError:
            continue
        if {"node", "host", "link_mib_s", "link_from"} <= raw.keys():
            found.append(raw)
    return found
