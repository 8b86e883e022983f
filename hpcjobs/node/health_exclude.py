"""Which nodes the next job of a run is not to get."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from hpcjobs.node.slurm import Run, run_command
from hpcjobs.run.bad_node_files import read_evidence
from hpcjobs.run.bad_nodes import bad_nodes, choose_excluded
from hpcjobs.run.health_config import HealthSettings

_CLUSTER = re.compile(r"^ClusterName\s*=\s*([A-Za-z0-9][A-Za-z0-9._-]{0,62})\s*$", re.MULTILINE)


def store_of(configured: str | None, run: Run = run_command) -> Path:
    """The directory of the evidence against this cluster's nodes.

    Clusters that share a home directory may both have a node1, so each has its own.
    """
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    base = Path(configured or f"{state}/hpcjobs/bad-nodes").expanduser()
    answer = run(["scontrol", "show", "config"])
    match = _CLUSTER.search(answer.stdout) if answer.returncode == 0 else None
    return base.absolute() / (match.group(1) if match else "unknown")


def nodes_to_exclude(
    store: Path,
    partition: str | None,
    needed: int,
    rules: HealthSettings | None = None,
    run: Run = run_command,
) -> list[str]:
    """Names of the nodes that are bad now, capped; Slurm is asked only if there are any.

    Args:
        store: see ``store_of``.
        partition: the job's partition; None is the cluster's default one.
        needed: nodes that the job asks for.
        rules: the caps; by default those of ``conf/health``.
        run: how Slurm is asked.
    """
    rules = rules or HealthSettings()
    bad = bad_nodes(read_evidence(store).evidence, time.time(), rules)
    if not bad:
        return []
    excluded, _ = choose_excluded(bad, partition_nodes(partition, run), needed, rules)
    return excluded


def partition_nodes(partition: str | None, run: Run = run_command) -> frozenset[str] | None:
    """The names of a partition's nodes; None when Slurm does not say.

    Without a name it is the default partition, which sinfo marks with a star.
    """
    words = ["sinfo", "-h", "-N", "-o", "%N %P"]
    answer = run([*words, "-p", partition] if partition else words)
    if answer.returncode != 0:
        return None
    pairs = [line.split() for line in answer.stdout.splitlines()]
    wanted = [p[0] for p in pairs if len(p) == 2 and (partition or p[1].endswith("*"))]
    return frozenset(wanted) or None
