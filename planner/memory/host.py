"""Host memory of a node, and the size of a checkpoint."""

import numpy as np

from planner.architecture import Architecture
from planner.layout import Layout, Quantity
from planner.memory.dtypes import ZERO, adapter_bytes, weight_bytes
from planner.memory.states import STATE_BYTES
from planner.memory.trained import Trained
from planner.workload import Workload

PROCESS_BYTES = 3.0 * (1 << 30)
"""Resident memory of one training process with torch, CUDA and DeepSpeed loaded."""
WORKER_BYTES = 0.5 * (1 << 30)
"""Resident memory of one data-loading process (480 MiB measured with transformers imported)."""
PINNED = 1.5
"""Pinned allocations round up and keep staging copies; DeepSpeed's own estimators take 1.5."""


def host_bytes(
    architecture: Architecture, workload: Workload, layout: Layout, trained: Trained
) -> Quantity:
    """Host RAM that one node needs.

    Every process loads a checkpoint of its own before its card holds it; offloaded states stay.
    """
    ranks = np.minimum(layout.gpus, layout.gpus_per_node)
    load = architecture.parameters * weight_bytes(workload)
    offloaded = PINNED * offloaded_bytes(architecture, workload, trained) * ranks / layout.gpus
    running = ranks * (PROCESS_BYTES + workload.workers * WORKER_BYTES)
    total: Quantity = running + np.maximum(offloaded + ranks * 0.0, ranks * load)
    return total


def offloaded_bytes(architecture: Architecture, workload: Workload, trained: Trained) -> float:
    """States on all hosts together."""
    if workload.offload == "none":
        return 0.0
    states = (STATE_BYTES[workload.optimizer] + 4.0 + 4.0) * trained.total
    if workload.offload == "optimizer":
        return states
    return states + architecture.parameters * weight_bytes(workload)


def checkpoint_bytes(workload: Workload, trained: Trained) -> float:
    """What is trained with its optimizer states; frozen weights are not written again.

    ZeRO writes the weights, their fp32 master copy and the states of the optimizer.
    """
    own = trained.base * weight_bytes(workload) + trained.adapters * adapter_bytes(workload)
    states = STATE_BYTES[workload.optimizer] or (2.0 if "8bit" in workload.optimizer else 0.0)
    master = 4.0 if workload.sharding in ZERO and workload.precision != "fp32" else 0.0
    return own + trained.total * (states + master)
