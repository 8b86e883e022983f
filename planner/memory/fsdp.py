"""FullyShardedDataParallel (torch/distributed/fsdp), one unit a layer."""

from planner.architecture import Architecture
from planner.layout import Layout
from planner.memory.dtypes import compute_bytes
from planner.memory.sharded import (
    Sharded,
    accumulates,
    foreach_bytes,
    layer_parameters,
    own_states,
    weight_parts,
)
from planner.memory.trained import Trained
from planner.workload import Workload


def fsdp(
    architecture: Architecture, workload: Workload, layout: Layout, trained: Trained
) -> Sharded:
    """Flat parameters of one layer each; one is used while the next is gathered.

    FULL_SHARD frees them after use. SHARD_GRAD_OP keeps them from the forward to the backward.
    Gathered parameters and fresh gradients are of the type that is computed in.
    """
    share = 1.0 / layout.gpus
    compute = float(compute_bytes(workload))
    static = weight_parts(architecture, workload, trained, share)
    states = own_states(workload, trained) * share
    own = trained.own_bytes * share
    if workload.offload == "optimizer_params":
        static = {name: 0.0 * value for name, value in static.items()}
    if workload.offload == "none":
        static["optimizer"] = states
        static["gradients"] = own * accumulates(layout)
    layer, root = layer_parameters(architecture), root_parameters(architecture)
    units = (2.0 * layer + root) * compute
    if workload.sharding == "fsdp_grad_op":
        units = float(architecture.parameters) * compute
    fresh = layer * compute if trained.counts.language_model else 0.0
    after = own * (1.0 - accumulates(layout)) if workload.offload == "none" else 0.0 * share
    return Sharded(
        static=static,
        forward={"gathered": units},
        backward={"gathered": units, "buckets": fresh, "gradients": after},
        loss={"gathered": units},
        last={"gathered": root * compute, "gradients": after},
        step={"gradients": after, "step": foreach_bytes(workload, trained) * share}
        if workload.offload == "none"
        else {},
    )


def root_parameters(architecture: Architecture) -> float:
    """Parameters outside the layers: they stay gathered through forward and backward."""
    tower = architecture.language_model
    return float(tower.embeddings + tower.final + architecture.head)
