"""What a way of sharding holds on one card, by the moment of a step.

Read in DeepSpeed 0.19 (runtime/zero/stage_1_and_2.py, stage3.py, fp16/unfused_optimizer.py), in
torch's DistributedDataParallel and FullyShardedDataParallel; measured with the dry run.
"""

from dataclasses import dataclass, field

import numpy as np

from planner.architecture import Architecture
from planner.layout import Layout, Quantity
from planner.memory.dtypes import ZERO, compute_bytes, weight_bytes
from planner.memory.specs import Kernels, reaches_embedding
from planner.memory.states import STATE_BYTES, weights_of
from planner.memory.trained import Trained
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


@dataclass(frozen=True, slots=True)
class Gathering:
    """Whole parameters that ZeRO-3 holds while the backward goes down through the layers."""

    everything: float
    """Parameters in all."""
    limit: float
    """As many as are live at once."""
    width: float

    def after(self, elements: float) -> float:
        """Bytes that are live when some parameters have had their last use."""
        return max(0.0, min(self.limit, self.everything - elements)) * self.width


@dataclass(frozen=True, slots=True)
class Sharded:
    """Bytes on one card."""

    static: dict[str, Quantity]
    """Through the whole step."""
    forward: dict[str, Quantity] = field(default_factory=dict)
    """Beside it during the forward: gathered parameters."""
    backward: dict[str, Quantity] = field(default_factory=dict)
    """Beside it during the backward, from the first gradient on."""
    loss: dict[str, Quantity] = field(default_factory=dict)
    """Beside it during the backward of the loss, before the first gradient."""
    gathering: "Gathering | None" = None
    """How gathered parameters go away during the backward."""
    bucket: float = 0.0
    """Elements of ZeRO's bucket, which is copied once more when it is reduced."""
    last: dict[str, Quantity] = field(default_factory=dict)
    """Beside the static bytes when the backward is over and the rest is reduced."""
    step: dict[str, Quantity] = field(default_factory=dict)
    """Beside the static bytes in the optimizer's step."""
    keeps_gradients: bool = False
    """Whether gradients stay with their parameters as the backward makes them."""


def sharded_of(
    architecture: Architecture,
    workload: Workload,
    layout: Layout,
    trained: Trained,
    kernels: Kernels = "cuda",
) -> Sharded:
    """Finds what the workload's sharding holds."""
    if workload.sharding in ("zero1", "zero2"):
        # The dry run traces rank 0, whose part begins with a trained tower; elsewhere the rank
        # that holds the embedding has most.
        traced = kernels == "cpu" and trained.counts.towers
        first = 0 if traced else first_parameter(architecture, trained)
        return _zero12(architecture, workload, layout, trained, first)
    if workload.sharding == "zero3":
        return _zero3(architecture, workload, layout, trained)
    if workload.sharding in ("fsdp", "fsdp_grad_op"):
        return _fsdp(architecture, workload, layout, trained)
    return _whole(architecture, workload, layout, trained)


def _weights(
    architecture: Architecture, workload: Workload, trained: Trained, share: Quantity
) -> dict[str, Quantity]:
    own = trained.adapters * trained.adapter_width
    return {
        "weights": weights_of(architecture, workload, trained) * share,
        "adapters": own * share,
    }


def _accumulates(layout: Layout) -> Quantity:
    """1 where gradients are kept over several micro batches, else 0."""
    return np.where(layout.grad_accum > 1, 1.0, 0.0)


def _whole(
    architecture: Architecture, workload: Workload, layout: Layout, trained: Trained
) -> Sharded:
    """One process, DDP, or ZeRO-0: every card holds all states.

    ZeRO-0 in two bytes keeps an fp32 copy of weights and states, and makes fp32 gradients at the
    step (FP16_UnfusedOptimizer). DDP's buckets are as large as the gradients, beside them.
    """
    own, total = trained.own_bytes, trained.total
    zero = workload.sharding == "zero0"
    mixed = zero and trained.base_width == 2
    static = _weights(architecture, workload, trained, 1.0)
    static["optimizer"] = (
        (4.0 + STATE_BYTES[workload.optimizer]) * total if mixed else own_states(workload, trained)
    )
    if workload.sharding == "ddp":
        static["buckets"] = own
    static["gradients"] = own * _accumulates(layout)
    flat = np.where(layout.gpus > 1, min(total, BUCKET) * trained.width, 0.0) if zero else 0.0
    fresh = own * (1.0 - _accumulates(layout))
    step: dict[str, Quantity] = {"gradients": fresh, "step": foreach_bytes(workload, trained)}
    if mixed:
        copies = 2.0 if workload.optimizer == "adamw" else 1.0
        step = {"gradients": fresh, "step": copies * 4.0 * total}
    return Sharded(
        static=static,
        last={"gradients": fresh, "buckets": flat},
        step=step,
        keeps_gradients=True,
    )


def own_states(workload: Workload, trained: Trained) -> float:
    """States of an optimizer that works on the weights themselves, in their type."""
    per_number = STATE_BYTES[workload.optimizer]
    if "8bit" in workload.optimizer:
        return per_number * trained.total
    return per_number / 4 * trained.own_bytes


def foreach_bytes(workload: Workload, trained: Trained) -> float:
    """Temporaries of torch's AdamW over lists of tensors (``_multi_tensor_adam``): one copy."""
    if workload.optimizer == "adamw":
        return trained.own_bytes
    if workload.optimizer == "adafactor":
        return 8.0 * trained.largest
    return 0.0


def _zero12(
    architecture: Architecture, workload: Workload, layout: Layout, trained: Trained, first: int
) -> Sharded:
    """Optimizer states of an Nth; gradients go through a bucket of fixed size.

    ZeRO-1 keeps gradients until the last micro batch is through; ZeRO-2 reduces them on the way.
    """
    total, width, share = trained.total, trained.width, 1.0 / layout.gpus
    offloaded = workload.offload != "none"
    bucket = float(workload.reduce_bucket or BUCKET)
    part = total * share
    static = _weights(architecture, workload, trained, 1.0)
    owned = np.maximum(part, first) * width
    averaged = 0.0 if offloaded else owned
    if offloaded:
        static["buckets"] = trained.largest * width
    else:
        static["optimizer"] = (4.0 + STATE_BYTES[workload.optimizer]) * part
    several = _accumulates(layout)
    held = bucket * width
    keeps = workload.sharding == "zero1"
    backward: dict[str, Quantity] = {"buckets": held}
    if keeps:
        static["gradients"] = trained.own_bytes * several
        static["buckets"] = static.get("buckets", 0.0) + held * several
        backward = {"buckets": held * (1.0 - several)}
    else:
        static["gradients"] = averaged * several
    left = averaged * (1.0 - several)
    step: dict[str, Quantity] = {}
    if not offloaded:
        piece = np.minimum(trained.largest if first or not trained.counts.embeddings else 0, part)
        # The norm in fp64 of the largest piece; the flat gradients and their fp32 copy; then that
        # copy and the optimizer's temporaries.
        norm = 8.0 * piece + left
        copied = (width + (4.0 if width < 4 else 0.0)) * part + left
        step["step"] = np.maximum(np.maximum(norm, copied), 8.0 * part)
    return Sharded(
        static=static,
        backward=backward,
        bucket=0.0 if keeps else bucket,
        last={**backward, "gradients": trained.own_bytes * (1.0 - several) if keeps else left},
        step=step,
        keeps_gradients=keeps,
    )


def first_parameter(architecture: Architecture, trained: Trained) -> int:
    """Rank 0's part begins with the embedding where that is trained, and holds it whole."""
    if not trained.counts.embeddings:
        return 0
    return architecture.vocab * architecture.language_model.hidden


def _zero3(
    architecture: Architecture, workload: Workload, layout: Layout, trained: Trained
) -> Sharded:
    """Everything in Nths, gathered module by module ahead of its use."""
    total, width, share = trained.total, trained.width, 1.0 / layout.gpus
    weights = float(weight_bytes(workload))
    static = _weights(architecture, workload, trained, share)
    if workload.offload == "optimizer_params":
        static = {name: 0.0 * value for name, value in static.items()}
    static["buckets"] = float(workload.reduce_bucket or BUCKET) * width
    static["persistent"] = persistent_bytes(architecture, workload, trained)
    if workload.offload == "none":
        static["optimizer"] = (4.0 + STATE_BYTES[workload.optimizer]) * total * share
        static["gradients"] = width * total * share
    everything = float(architecture.parameters + trained.adapters + trained.copied)
    live = min(everything, MAX_LIVE)
    ahead = min(everything, PREFETCH + _largest_matrix(architecture))
    gathered = (live + ahead) * weights
    needed = everything
    if not architecture.tied and not reaches_embedding(architecture, workload):
        needed -= architecture.vocab * architecture.language_model.hidden
    within = min(needed, MAX_LIVE + (ahead if everything > MAX_LIVE else 0.0)) * weights
    group = np.minimum(total * share, SUB_GROUP)
    step = {"step": 8.0 * group} if workload.offload == "none" else {}
    return Sharded(
        static=static,
        forward={"gathered": gathered},
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
        from planner.models.trainable import lora_linears

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


def _fsdp(
    architecture: Architecture, workload: Workload, layout: Layout, trained: Trained
) -> Sharded:
    """Flat parameters of one layer each; one is used while the next is gathered.

    FULL_SHARD frees them after use. SHARD_GRAD_OP keeps them from the forward to the backward.
    Gathered parameters and fresh gradients are of the type that is computed in.
    """
    share = 1.0 / layout.gpus
    compute = float(compute_bytes(workload))
    static = _weights(architecture, workload, trained, share)
    states = own_states(workload, trained) * share
    own = trained.own_bytes * share
    if workload.offload == "optimizer_params":
        static = {name: 0.0 * value for name, value in static.items()}
    if workload.offload == "none":
        static["optimizer"] = states
        static["gradients"] = own * _accumulates(layout)
    layer, root = layer_parameters(architecture), root_parameters(architecture)
    units = (2.0 * layer + root) * compute
    if workload.sharding == "fsdp_grad_op":
        units = float(architecture.parameters) * compute
    fresh = layer * compute if trained.counts.language_model else 0.0
    after = own * (1.0 - _accumulates(layout)) if workload.offload == "none" else 0.0 * share
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


def layer_parameters(architecture: Architecture) -> float:
    """Parameters of the largest layer of the language model."""
    return float(
        max(
            group.other + sum(linear.parameters for linear in group.linears)
            for group in architecture.language_model.groups
        )
    )


def root_parameters(architecture: Architecture) -> float:
    """Parameters outside the layers: they stay gathered through forward and backward."""
    tower = architecture.language_model
    return float(tower.embeddings + tower.final + architecture.head)


def is_zero(workload: Workload) -> bool:
    """Whether DeepSpeed runs it."""
    return workload.sharding in ZERO
