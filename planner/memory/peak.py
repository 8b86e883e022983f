"""Memory of a workload in the metric that it asks for, at the median and at p95."""

import numpy as np

from planner.architecture import Architecture
from planner.layout import Layout, Quantity
from planner.memory.allocated import Allocated
from planner.memory.closed_form import allocated_of
from planner.memory.host import checkpoint_bytes, host_bytes
from planner.memory.overhead import added_of, needed_p95_of, overhead_of, p95_of, unlimited_p95_of
from planner.memory.trained import trained_of
from planner.prediction import Memory
from planner.workload import Workload


def memory_of(
    architecture: Architecture,
    workload: Workload,
    layout: Layout,
    allocated: Allocated | None = None,
) -> Memory:
    """Peak of the fullest card, host RAM of a node and bytes of a checkpoint.

    The layout may hold arrays; every figure then has their shape. Live tensors are the same on
    every card: a search hands in what it has computed for another one.
    """
    if allocated is None:
        allocated = allocated_of(architecture, workload, layout)
    overhead = overhead_of(architecture, workload, layout, allocated)
    trained = trained_of(architecture, workload)
    metric = workload.memory_metric
    added = added_of(overhead, metric)
    zero = 0.0 * allocated.peak_bytes
    return Memory(
        components=_present({**allocated.components, **added}),
        phases=allocated.phases,
        allocated_bytes=allocated.peak_bytes,
        peak_p50_bytes=allocated.peak_bytes + sum(added.values()),
        peak_p95_bytes=p95_of(allocated, overhead, metric),
        process_p50_bytes=allocated.peak_bytes + sum(added_of(overhead, "process").values()),
        process_p95_bytes=p95_of(allocated, overhead, "process"),
        needed_p95_bytes=needed_p95_of(allocated, overhead),
        unlimited_p95_bytes=unlimited_p95_of(allocated, overhead),
        host_bytes=host_bytes(architecture, workload, layout, trained) + zero,
        checkpoint_bytes=checkpoint_bytes(workload, trained) + zero,
    )


def _present(components: dict[str, Quantity]) -> dict[str, Quantity]:
    """Leaves out what nothing needs."""
    return {name: value for name, value in components.items() if np.any(np.asarray(value) > 0)}
