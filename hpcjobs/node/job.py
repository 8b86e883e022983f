"""The allocation that a broker runs in, as its environment tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hpcjobs.node.health import expand_hosts


@dataclass(frozen=True)
class Allocation:
    """A Slurm job, or this machine."""

    job_id: str | None = None
    """None outside Slurm."""
    restarts: int = 0
    """How often Slurm has started the job again."""
    is_batch: bool = False
    """Whether Slurm runs a batch script that it can run again; not inside an ``salloc``."""
    partition: str | None = None
    hosts: tuple[str, ...] = ()
    """By node number."""


def read_allocation(environment: Mapping[str, str]) -> Allocation:
    """Reads where this process runs; Slurm sets ENVIRONMENT=BATCH in batch scripts alone."""
    job_id = environment.get("SLURM_JOB_ID")
    if job_id is None:
        return Allocation()
    restarts = environment.get("SLURM_RESTART_COUNT", "0")
    return Allocation(
        job_id=job_id,
        restarts=int(restarts) if restarts.isdigit() else 0,
        is_batch=environment.get("ENVIRONMENT") == "BATCH",
        partition=environment.get("SLURM_JOB_PARTITION"),
        hosts=tuple(expand_hosts(environment.get("SLURM_JOB_NODELIST", ""))),
    )
