"""What stands between live tensors and the memory that the driver shows."""

from dataclasses import dataclass
from functools import reduce

import numpy as np

from planner.architecture import Architecture
from planner.cards import card_of
from planner.layout import Layout, Quantity
from planner.memory.allocated import Allocated
from planner.prediction import GIB
from planner.workload import Lengths, MemoryMetric, Workload

# Phases whose largest tensors have the same sizes in every step: gradients, states, buckets.
_LARGE_COPIES = 3.5
"""Copies of the largest tensor (fp32 logits) that the loss holds at once, its bf16 ones too."""
_ALIKE = ("backward end", "embedding", "reduce", "step")


@dataclass(frozen=True, slots=True)
class Constants:
    """The few figures that are no arithmetic; none was fitted on a published measurement.

    The shares of slack are medians of simulations of torch's caching allocator
    (benchmarks/accuracy/allocator.py, results in docs/accuracy.md).
    """

    context_bytes: float = 0.5 * GIB
    """CUDA context with the kernels that training loads: 0.47 GiB with lazy loading
    (stas00/ml-engineering)."""
    peer_bytes: float = 0.16 * GIB
    """NCCL's channels and buffers for every other card of the node: 1.0 to 1.45 GiB for eight cards
    there, and 0.6 GiB with the context is what two full cards of 24 GB leave (fsdpqlora-11)."""
    loading_slack_bytes: float = 0.75 * GIB
    """Cached blocks that loading and wrapping the model leave, too small for what comes later."""
    fixed_slack: float = 0.2
    """Slack over transient tensors where every step has the same shapes: 0.19-0.34 simulated."""
    variable_slack: float = 2.0
    """The same where lengths vary: 1.0-2.3 simulated, since blocks of an earlier, shorter sample
    do not fit the next longer one."""
    expandable_share: float = 0.1
    """Share of the latter that is left with expandable segments, which grow in place."""
    step_slack: float = 0.05
    """Slack over the temporaries of the optimizer's step: tensors of the same sizes every time."""
    least_share: float = 0.15
    """Share of the slack that stays when the card is full and the allocator has given back every
    segment that is wholly free."""
    slack_p95: float = 1.9
    """p95 over p50 of the slack, simulated."""
    spread: float = 1.06
    """p95 over p50 of everything else."""


CONSTANTS = Constants()


@dataclass(frozen=True, slots=True)
class Overhead:
    """Bytes on top of the live tensors, at the median and at p95."""

    slack_p50_bytes: Quantity
    """Reserved by the allocator and not in use: rounding, cached blocks, fragmentation."""
    slack_p95_bytes: Quantity
    context_bytes: Quantity
    """CUDA context, kernels and library workspaces of the process."""
    nccl_bytes: Quantity
    spread: float
    """p95 over p50 of what is left to chance once everything above is in."""
    slack_least_bytes: Quantity
    """What is left of the slack's p95 on a full card."""
    usable_bytes: Quantity
    """What the card gives to a process: slack does not grow beyond it."""


def overhead_of(
    architecture: Architecture,  # noqa: ARG001 - every part of the memory has the same signature
    workload: Workload,
    layout: Layout,
    allocated: Allocated,
    constants: Constants = CONSTANTS,
) -> Overhead:
    """The allocator's slack, the context and NCCL's buffers of one process.

    Raises:
        PlannerError: the workload's card is not known.
    """
    context = constants.context_bytes + 0.0 * layout.gpus
    peers = np.minimum(layout.gpus, layout.gpus_per_node) - 1.0
    nccl = np.where(layout.gpus > 1, constants.peer_bytes * np.maximum(peers, 1.0), 0.0)
    usable = card_of(workload.gpu).usable_bytes
    room = usable - context - nccl - allocated.peak_bytes
    median = _slack(allocated, workload, constants)
    tail = _slack(allocated, workload, constants, constants.slack_p95)
    return Overhead(
        slack_p50_bytes=_under_pressure(median, room, constants),
        slack_p95_bytes=_under_pressure(tail, room, constants),
        context_bytes=context,
        nccl_bytes=nccl,
        spread=constants.spread,
        slack_least_bytes=constants.least_share * tail,
        usable_bytes=usable + 0.0 * tail,
    )


def added_of(overhead: Overhead, metric: MemoryMetric) -> dict[str, Quantity]:
    """What a metric counts beside live tensors, at the median."""
    if metric == "allocated":
        return {}
    reserved = {"slack": overhead.slack_p50_bytes}
    if metric == "reserved":
        return reserved
    return {**reserved, "context": overhead.context_bytes, "nccl": overhead.nccl_bytes}


def p95_of(allocated: Allocated, overhead: Overhead, metric: MemoryMetric) -> Quantity:
    """Everything at the median times the spread, and the slack at its own p95.

    Both are left to chance apart, so their tails add as squares. A card that is full ends the
    slack, not the run: beyond it only live tensors and what the allocator cannot give back count.
    """
    added = added_of(overhead, metric)
    median = allocated.peak_bytes + sum(added.values())
    if metric == "allocated":
        return overhead.spread * median
    tail = overhead.slack_p95_bytes - overhead.slack_p50_bytes
    free = median + np.hypot((overhead.spread - 1.0) * median, tail)
    fixed = overhead.context_bytes + overhead.nccl_bytes
    counted = fixed if metric == "process" else 0.0
    hard = overhead.spread * allocated.peak_bytes + overhead.slack_least_bytes + counted
    full = overhead.usable_bytes - fixed + counted
    return np.maximum(hard, np.minimum(free, np.maximum(full, median)))


def _slack(
    allocated: Allocated, workload: Workload, constants: Constants, tail: float = 1.0
) -> Quantity:
    """Reserved and unused: the step takes blocks that forward and backward have left, or adds."""
    passes = [value for name, value in allocated.phases.items() if name not in _ALIKE]
    hump = reduce(np.maximum, passes, allocated.static_bytes) - allocated.static_bytes
    # Gathered parameters have the same sizes in every step.
    gathered = allocated.components.get("gathered", 0.0)
    hump = np.maximum(hump - gathered, 0.0)
    # Of many small blocks alike some always fit; a few large ones hardly ever do.
    large = np.minimum(hump, _LARGE_COPIES * allocated.largest_tensor_bytes)
    slack = constants.fixed_slack * hump + _variable_share(workload, constants) * large
    through_passes = allocated.static_bytes + gathered + hump + tail * slack
    through_step = allocated.peak_bytes + constants.step_slack * allocated.transient_bytes
    if workload.sharding.startswith("zero"):
        # DeepSpeed's flat copies are too large for any block that the passes have left.
        step = allocated.phases.get("step", allocated.static_bytes)
        through_step = np.maximum(through_step, step + hump + tail * slack)
    left = tail * constants.loading_slack_bytes
    return np.maximum(through_passes, through_step) - allocated.peak_bytes + left


def _under_pressure(slack: Quantity, room: Quantity, constants: Constants) -> Quantity:
    """What the card leaves of the slack: a full one makes the allocator give segments back.

    Source: c10/cuda/CUDACachingAllocator.cpp, release_cached_blocks before an out-of-memory error.
    """
    return np.maximum(constants.least_share * slack, np.minimum(slack, room))


def _variable_share(workload: Workload, constants: Constants) -> float:
    """Slack over the large transient tensors that varying lengths cause.

    It is all there once lengths lie a third below the longest on average, and is made of blocks
    of usual lengths: the shorter those are, the less they hold.
    """
    uneven = unevenness(workload.seq_len)
    share = constants.variable_slack * min(1.0, 3.0 * uneven) * (1.0 - uneven)
    return share * (constants.expandable_share if workload.expandable_segments else 1.0)


def unevenness(lengths: Lengths) -> float:
    """How far the mean length is below the longest: 0 for a fixed length, towards 1.

    >>> round(unevenness(Lengths(values=(512, 1024), weights=(0.5, 0.5))), 3)
    0.25
    """
    mean = sum(n * share for n, share in zip(lengths.values, lengths.weights, strict=True))
    return 1.0 - mean / max(lengths.values)
