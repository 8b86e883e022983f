"""What the nodes need to know to start a run's processes; read by Python 3.9 and later."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hpcjobs.run.errors import ConfigError
from hpcjobs.run.files import read_json, write_json


@dataclass(frozen=True)
class Launch:
    """The shape of a run: how many processes where, with which interpreter and environment."""

    python: str
    """Interpreter of the training processes."""
    nodes: int
    processes_per_node: int
    cpus_per_node: int
    requeue: bool
    """Whether a stopped run asks Slurm to start it again."""
    env: dict[str, str]
    env_file: str | None
    """A 0600 file of NAME=VALUE lines that the node reads at use."""

    min_nodes: int | None = None
    """The fewest nodes that Slurm may start the job with; None wants all of ``nodes``."""
    batch_units: int | None = None
    """Micro batches in a global batch, which the processes of an elastic run must divide."""
    signal_lead_s: int = 120
    """Seconds before the time limit at which Slurm announces it."""
    failures_max: int = 3
    """Crashes and hangs without a new checkpoint after which the run stops."""
    interruptions_max: int = 5
    """Lost allocations and stop signals without a new checkpoint after which the run stops."""
    gpus_expected: int | None = None
    """Cards that a node must show; None where the training takes what is there."""
    health: dict[str, Any] = field(default_factory=dict)
    """``HealthSettings`` as written in the configuration; empty for the defaults."""
    watch: dict[str, Any] = field(default_factory=dict)
    """``WatchSettings`` as written in the configuration; empty for the defaults."""
    follow_up: bool = True
    """Whether a job that cannot be requeued submits one that goes on after it."""
    exclude: str | None = None
    """The user's own ``sbatch.exclude``, which a list of bad nodes must not replace."""
    comment: str | None = None
    """The user's own ``sbatch.comment``."""
    job_time_s: int | None = None
    """Time limit of one job; None is not known."""
    total_s: int | None = None
    """Seconds that all attempts together may take; None where the run's work bounds it."""
    code: str = ""
    """The training program, an archive in the run directory that Python runs."""
    container: dict[str, Any] | None = None
    """``ContainerPlan``; None starts the processes on the nodes themselves."""
    bad_nodes: str | None = None
    """Directory of the evidence against nodes of this cluster; None keeps none."""

    @property
    def world_size(self) -> int:
        """Training processes in all."""
        return self.nodes * self.processes_per_node


def write_launch(path: Path, launch: Launch) -> None:
    """Writes the launch file atomically."""
    write_json(path, asdict(launch))


def read_launch(path: Path) -> Launch:
    """Reads the launch file.

    Raises:
        InputError: it is missing or not JSON.
        ConfigError: another version wrote it.
    """
    try:
        return Launch(**read_json(path))
    except TypeError as error:
        raise ConfigError(f"{path} is of another version; submit the run again") from error
