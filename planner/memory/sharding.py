"""Which way of sharding a workload asks for."""

import numpy as np

from planner.architecture import Architecture
from planner.layout import Layout
from planner.memory.fsdp import fsdp
from planner.memory.parts import Parts
from planner.memory.sharded import Sharded, accumulates, foreach_bytes, own_states, weight_parts
from planner.memory.specs import Kernels
from planner.memory.states import STATE_BYTES
from planner.memory.trained import Trained
from planner.memory.zero import BUCKET, first_parameter, zero3, zero12
from planner.workload import Workload


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
        return zero12(architecture, workload, layout, trained, first)
    if workload.sharding == "zero3":
        return zero3(architecture, workload, layout, trained)
    if workload.sharding in ("fsdp", "fsdp_grad_op"):
        return fsdp(architecture, workload, layout, trained)
    return _whole(architecture, workload, layout, trained)


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
    static = weight_parts(architecture, workload, trained, 1.0)
    static["optimizer"] = (
        (4.0 + STATE_BYTES[workload.optimizer]) * total if mixed else own_states(workload, trained)
    )
    if workload.sharding == "ddp":
        static["buckets"] = own
    static["gradients"] = own * accumulates(layout)
    flat = np.where(layout.gpus > 1, min(total, BUCKET) * trained.width, 0.0) if zero else 0.0
    fresh = own * (1.0 - accumulates(layout))
    step: Parts = {"gradients": fresh, "step": foreach_bytes(workload, trained)}
    if mixed:
        copies = 2.0 if workload.optimizer == "adamw" else 1.0
        step = {"gradients": fresh, "step": copies * 4.0 * total}
    return Sharded(
        static=static,
        last={"gradients": fresh, "buckets": flat},
        step=step,
        keeps_gradients=True,
    )
