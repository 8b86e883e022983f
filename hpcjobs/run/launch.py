"""What the nodes need to know to start a run's processes; read by Python 3.9 and later."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

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
