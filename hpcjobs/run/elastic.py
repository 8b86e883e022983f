"""How many of an allocation's nodes a run uses: as many as divide its batch exactly."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from hpcjobs.run.errors import InputError
from hpcjobs.run.launch import Launch

_RANGE = re.compile(r"(\d+)-(\d+)")


def usable_nodes(there: int, processes_per_node: int, batch_units: int) -> int | None:
    """The largest number of nodes, at most ``there``, whose processes share the batch evenly.

    Args:
        there: nodes that can be used.
        processes_per_node: training processes on each.
        batch_units: micro batches in a global batch.

    Returns:
        None where not even one node's processes divide the batch.

    >>> usable_nodes(3, 1, 8), usable_nodes(4, 8, 128), usable_nodes(2, 3, 8)
    (2, 4, None)
    """
    fitting = (n for n in range(there, 0, -1) if batch_units % (n * processes_per_node) == 0)
    return next(fitting, None)


def fitted(launch: Launch, there: int) -> Launch:
    """The launch on the nodes that are there; as it is where the number of nodes is fixed.

    Raises:
        InputError: the run needs more nodes, or none of the numbers divides the batch.
    """
    if launch.min_nodes is None:
        if there < launch.nodes:
            raise InputError(
                f"the job has {there} nodes and the run needs {launch.nodes}: submit it again, or "
                f"write parallel.nodes=1-{launch.nodes}"
            )
        return launch
    units = launch.batch_units or 0
    used = usable_nodes(min(there, launch.nodes), launch.processes_per_node, units)
    if used is None:
        raise InputError(
            f"{units} micro batches divide over none of 1 to {there} nodes of "
            f"{launch.processes_per_node} processes: change parallel.micro_batch"
        )
    return replace(launch, nodes=used)


def split_range(nodes: Any) -> tuple[int, int] | None:  # noqa: ANN401
    """Reads ``MIN-MAX`` as sbatch takes it; None where it is something else.

    >>> split_range("2-4"), split_range(4), split_range("4-")
    ((2, 4), None, None)
    """
    match = _RANGE.fullmatch(nodes) if isinstance(nodes, str) else None
    return None if match is None else (int(match.group(1)), int(match.group(2)))
