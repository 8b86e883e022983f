"""What a cluster says about the place that a job asks for: its time limit, its bad nodes."""

from collections.abc import Mapping
from dataclasses import dataclass

from hpcjobs.node.health_exclude import nodes_to_exclude, store_of
from hpcjobs.node.slurm import Run, run_command
from hpcjobs.run.cluster_config import Cluster, slurm_time_s
from hpcjobs.run.errors import ConfigError
from hpcjobs.run.experiment import Experiment


@dataclass(frozen=True, slots=True)
class Site:
    """What is known of the place; without Slurm nothing is, and nothing is restricted."""

    limit_s: int | None = None
    """The longest time that a job may ask for there; None is unknown or unlimited."""
    bad_nodes: tuple[str, ...] = ()
    """Hosts that a new job is not to get."""

    def job_time_s(self, cluster: Cluster) -> int:
        """Time limit of one job, in seconds."""
        return cluster.time_s if self.limit_s is None else min(cluster.time_s, self.limit_s)

    def in_chunks(self, cluster: Cluster) -> bool:
        """Whether the run needs several jobs for its ``cluster.time``."""
        return self.job_time_s(cluster) < cluster.time_s

    def job_time(self, cluster: Cluster) -> str:
        """Time limit of one job in Slurm's form; as the user wrote it where it fits."""
        if not self.in_chunks(cluster):
            return str(cluster.time)
        return slurm_time(self.job_time_s(cluster))


UNKNOWN_SITE = Site()


def look_at_site(experiment: Experiment, run: Run = run_command) -> Site:
    """Asks Slurm; what it does not say stays unknown.

    Raises:
        ConfigError: a job there cannot be long enough to save before its end.
    """
    cluster = experiment.cluster
    answer = run(["scontrol", "show", "partition", "-o"])
    limits = parse_limits(answer.stdout) if answer.returncode == 0 else {}
    limit = longest_s(limits, cluster.partition)
    if limit is not None and limit <= cluster.signal_lead_s:
        raise ConfigError(
            f"jobs in {cluster.partition or 'the default partition'} end after "
            f"{slurm_time(limit)}, before cluster.signal_lead_s={cluster.signal_lead_s}: "
            f"use another cluster.partition"
        )
    store = store_of(experiment.health.bad_nodes, run)
    nodes = nodes_to_exclude(
        store, cluster.partition, experiment.parallel.nodes, experiment.health, run
    )
    return Site(limit, tuple(nodes))


def parse_limits(text: str) -> dict[str, int | None]:
    r"""Reads ``scontrol show partition -o``: the MaxTime of each partition, None for no limit.

    The default partition is there a second time, under the empty name. What cannot be read is
    left out.

    >>> parse_limits("PartitionName=a Default=YES MaxTime=12:00:00\nPartitionName=b MaxTime=X")
    {'a': 43200, '': 43200}
    """
    limits: dict[str, int | None] = {}
    for line in text.splitlines():
        fields = dict(word.partition("=")[::2] for word in line.split() if "=" in word)
        try:
            limit = _limit_s(fields["MaxTime"])
            names = [fields["PartitionName"]] + [""] * (fields.get("Default") == "YES")
        except (KeyError, ConfigError):
            continue
        limits.update(dict.fromkeys(names, limit))
    return limits


def longest_s(limits: Mapping[str, int | None], partition: str | None) -> int | None:
    """The longest time in a partition, or in any of several; None is unlimited or unknown."""
    longest = 0
    for name in (partition or "").split(","):
        limit = limits.get(name)
        if limit is None:
            return None
        longest = max(longest, limit)
    return longest


def slurm_time(seconds: int) -> str:
    """Writes a time limit as Slurm does.

    >>> slurm_time(43200), slurm_time(90000)
    ('12:00:00', '1-01:00:00')
    """
    days, rest = divmod(seconds, 86400)
    clock = f"{rest // 3600:02}:{rest % 3600 // 60:02}:{rest % 60:02}"
    return f"{days}-{clock}" if days else clock


def _limit_s(text: str) -> int | None:
    return None if text in ("UNLIMITED", "INFINITE", "NONE") else slurm_time_s(text)
