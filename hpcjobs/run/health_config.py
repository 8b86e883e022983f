"""What a node must have before an attempt starts on it, and how long a bad one is avoided."""

from __future__ import annotations

from dataclasses import dataclass

from hpcjobs.run.checks import above, at_least, one_line
from hpcjobs.run.errors import ConfigError


@dataclass(frozen=True)
class HealthSettings:
    """Limits of the look at every node, and the rules by which bad nodes are remembered."""

    enabled: bool = True
    timeout_s: float = 60.0
    """A node that has not answered by then is a finding."""
    run_free_gib: float = 1.0
    scratch_free_gib: float = 1.0
    """Room below $SLURM_TMPDIR, $TMPDIR or /tmp."""
    shm_free_gib: float = 0.05
    """Room in /dev/shm: loader processes and NCCL need it."""
    memory_free_gib: float = 1.0
    clock_skew_s: float = 30.0
    link_mib_s: float = 5.0
    """Slowest network link between neighbours in the ring of nodes, MiB a second."""
    ecc_errors_max: int = 0
    """Uncorrected memory errors of a card since its driver was loaded."""
    bad_nodes: str | None = None
    """A directory that a group shares; null is ``~/.local/state/hpcjobs/bad-nodes``."""
    expire_hours: float = 24.0
    """A bad node is tried again after so long; every repetition doubles it."""
    expire_max_hours: float = 336.0
    exclude_max: int = 16
    exclude_share_max: float = 0.25
    """Share of the partition's nodes that may be excluded at once; one always may."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        for name in ("timeout_s", "clock_skew_s", "expire_hours"):
            above(name, getattr(self, name), 0)
        for name in ("run_free_gib", "scratch_free_gib", "shm_free_gib", "memory_free_gib"):
            at_least(name, getattr(self, name), 0)
        for name in ("link_mib_s", "ecc_errors_max", "exclude_max", "exclude_share_max"):
            at_least(name, getattr(self, name), 0)
        at_least("expire_max_hours", self.expire_max_hours, self.expire_hours)
        if self.exclude_share_max > 1:
            raise ConfigError(f"exclude_share_max must be at most 1, not {self.exclude_share_max}")
        one_line("bad_nodes", self.bad_nodes)
        if self.bad_nodes == "":
            raise ConfigError("bad_nodes is empty: write a directory, or null")
