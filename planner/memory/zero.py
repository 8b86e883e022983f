"""ZeRO as DeepSpeed 0.19 does it (runtime/zero/stage_1_and_2.py and stage3.py)."""

import numpy as np

from planner.architecture import Architecture
from planner.layout import Layout, Quantity
from planner.memory.dtypes import weight_bytes
from planner.memory.parts import Parts
from planner.memory.sharded import Gathering, Sharded, accumulates, weight_parts
from planner.memory.specs import reaches_embedding
from planner.memory.states import STATE_BYTES
from planner.memory.trained import Trained
from planner.models.trainable import lora_linears
from planner.workload import Workload

BUCKET = 5e8
"""Elements of reduce_bucket_size (deepspeed/runtime/zero/config.py)."""
MAX_LIVE = 1e9
"""Elements of stage3_max_live_parameters (same file)."""
PREFETCH = 5e7
"""Elements of stage3_prefetch_bucket_size (same file)."""
SUB_GROUP = 1e9
"""Elements of ZeRO-3's sub_group_size (same file): the step goes through one after the other."""
PERSISTENT = 100_000
"""Elements below which ZeRO-3 leaves a parameter whole (stage3_param_persistence_threshold)."""


def zero12(
    architecture: Architecture, workload: Workload, layout: Layout, trained: Trained, first: int
) -> Sharded:
    """Optimizer states of an Nth; gradients go through a bucket of fixed size.

    ZeRO-1 keeps gradients until the last micro batch is through; ZeRO-2 reduces them on the way.
    """
    total, width, share = trained.total, trained.width, 1.0 / layout.gpus
    offloaded = workload.offload != "none"
    bucket = float(workload.reduce_bucket or BUCKET)
    part = total * share
    static = weight_parts(architecture, workload, trained, 1.0)
    owned = np.maximum(part, first) * width
    averaged = 0.0 if offloaded else owned
    if offloaded:
        static["buckets"] = trained.largest * width
    else:
        static["optimizer"] = (4.0 + STATE_BYTES[workload.optimizer]) * part
    several = accumulates(layout)
    held = bucket * width
    keeps = workload.sharding == "zero1"
    backward: Parts = {"buckets": held}
    if keeps:
        static["gradients"] = trained.own_bytes * several
        static["buckets"] = static.get("buckets", 0.0) + held * several
        backward = {"buckets": held * (1.0 - several)}
    else:
        static["gradients"] = averaged * several
    left = averaged * (1.0 - several)
    largest = trained.largest if first or not trained.counts.embeddings else 0
    step: Parts = {} if offloaded else {"step": _step12(largest, part, width, left)}
    return Sharded(
        static=static,
        backward=backward,
        bucket=0.0 if keeps else bucket,
        last={**backward, "gradients": trained.own_bytes * (1.0 - several) if keeps else left},
        step=step,
        keeps_gradients=keeps,
    )


def _step12(largest: int, part: Quantity, width: float, left: Quantity) -> Quantity:
    """The highest of three moments.

    The norm of the largest piece, in fp64; the flat gradients and their fp32 copy; then that copy
    and the optimizer's temporaries.
    """
    norm = 8.0 * np.minimum(largest, part) + left
    copied = (width + (4.0 if width < 4 else 0.0)) * part + left
    return np.maximum(np.maximum(norm, copied), 8.0 * part)


def first_parameter(architecture: Architecture, trained: Trained) -> int:
    """Rank 0's part begins with the embedding where that is trained, and holds it whole."""
    if not trained.counts.embeddings:
        return 0
    return architecture.vocab * architecture.language_model.hidden


def zero3(
    architecture: Architecture, workload: Workload, layout: Layout, trained: Trained
) -> Sharded:
    """Everything in Nths, gathered module by module ahead of its use."""
    total, width, share = trained.total, trained.width, 1.0 / layout.gpus
    weights = float(weight_bytes(workload))
    static = weight_parts(architecture, workload, trained, share)
    if workload.offload == "optimizer_params":
        static = {name: 0.0 * value for name, value in static.items()}
    static["buckets"] = float(workload.reduce_bucket or BUCKET) * width
    static["persistent"] = persistent_bytes(architecture, workload, trained)
    if workload.offload == "none":
        static["optimizer"] = (4.0 + STATE_BYTES[workload.optimizer]) * total * share
        static["gradients"] = width * total * share
    everything = float(architecture.parameters + trained.adapters + trained.copied)
    ahead = min(everything, PREFETCH + _largest_matrix(architecture))
    needed = everything
    if not architecture.tied and not reaches_embedding(architecture, workload):
        needed -= architecture.vocab * architecture.language_model.hidden
    if workload.towers == "frozen":
        needed -= sum(tower.parameters for tower in architecture.towers)
    within = min(needed, MAX_LIVE + (ahead if everything > MAX_LIVE else 0.0)) * weights
    group = np.minimum(total * share, SUB_GROUP)
    step = {"step": 8.0 * group} if workload.offload == "none" else {}
    return Sharded(
        static=static,
        forward={"gathered": (min(needed, MAX_LIVE) + ahead) * weights},
        backward={"gathered": within},
        loss={"gathered": min(needed, MAX_LIVE) * weights},
        gathering=Gathering(needed, within / weights, weights),
        bucket=float(workload.reduce_bucket or BUCKET),
        last={"gathered": within},
        step=step,
    )


def persistent_bytes(architecture: Architecture, workload: Workload, trained: Trained) -> float:
    """Small parameters that ZeRO-3 never cuts: norms, biases, matrices of adapters."""
    tower = architecture.language_model
    small = sum(group.count * group.other for group in tower.groups)
    if trained.counts.adapters:
        rank = workload.method.r
        for layers, linear in lora_linears(architecture, workload.method):
            sizes = (rank * linear.inputs, rank * linear.outputs)
            small += sum(layers * linear.copies * size for size in sizes if size < PERSISTENT)
    return float(small * weight_bytes(workload))


def _largest_matrix(architecture: Architecture) -> float:
    return float(
        max(
            linear.inputs * linear.outputs
            for group in architecture.language_model.groups
            for linear in group.linears
        )
    )
