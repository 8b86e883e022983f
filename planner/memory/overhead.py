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
_ALIKE = ("backward end", "embedding", "reduce", "step")
# Copies of the largest tensor (fp32 logits) that the loss holds at once, its bf16 ones too.
_LARGE_COPIES = 3.5


@dataclass(frozen=True, slots=True)
class Constants:
    """The few figures that are no arithmetic.

    What is called simulated comes from a model of torch's caching allocator
    (benchmarks/accuracy/simulate_slack.py). What is called fitted was found by
    benchmarks/accuracy/refit.py on the rows ``qwen-*``, ``swift2-*``, ``fsdpqlora-*``,
    ``peftguide-*`` and ``minicpmv-*`` of tier A (those of p95 on ``litgpt-*`` too); the accuracy
    page scores every row with constants that were fitted without its model family.
    """

    context_bytes: float = 0.5 * GIB
    """CUDA context with the kernels that training loads: 0.47 GiB with lazy loading
    (stas00/ml-engineering)."""
    nvlink_bytes: float = 1.0 * GIB
    """NCCL's channels and first collectives where cards have links of their own: 1.0 to 1.45 GiB
    there, on eight cards; some 24 channels with buffers, however many cards there are."""
    host_link_bytes: float = 0.13 * GIB
    """The same through the host, over two to four channels: what is left with the context beside
    23.05 GiB reserved on a card that gives 23.68 (fsdpqlora-11), an upper bound."""
    loading_slack_bytes: float = 1.2 * GIB
    """Cached blocks that loading and wrapping the model leave, too small for what comes later.
    Fitted: 1.2 GiB without any family."""
    fixed_slack: float = 0.27
    """Slack over transient tensors where every step has the same shapes: 0.08-0.34 simulated."""
    variable_slack: float = 2.8
    """Where lengths vary, over the large transient tensors of a usual sample, since blocks of an
    earlier, shorter sample do not fit the next longer one. Fitted: 2.6 to 3.2 without one family;
    2 to 10 simulated."""
    expandable_share: float = 0.1
    """Share of the latter that is left with expandable segments, which grow in place."""
    step_slack: float = 0.05
    """Slack over the temporaries of the optimizer's step: tensors of the same sizes every time."""
    least_share: float = 0.05
    """Share of the slack that stays when the card is full and the allocator has given back every
    segment that is wholly free: none of it simulated with one length, 0.04-0.22 with many."""
    slack_p95: float = 2.3
    """p95 over p50 of the slack with fixed lengths. Fitted."""
    variable_p95: float = 6.0
    """The same of what varying lengths add: it hangs on the order of the samples. Fitted."""
    spread: float = 1.08
    """p95 over p50 of everything else. Fitted."""
    tensor_spread: float = 1.02
    """The same of live tensors alone, which decide on a full card: how far the closed form lies
    from the unmodified DeepSpeed engine on fake tensors."""


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
    """What is left of the slack on a full card."""
    tensor_spread: float
    """p95 over p50 of the live tensors alone."""
    unlimited_slack_p50_bytes: Quantity
    unlimited_slack_p95_bytes: Quantity
    """The slack on a card without end."""
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
    card = card_of(workload.gpu)
    linked = card.peer_gb_per_s is not None
    nccl = np.where(
        layout.gpus > 1, constants.nvlink_bytes if linked else constants.host_link_bytes, 0.0
    )
    usable = card.usable_bytes
    room = usable - context - nccl - allocated.peak_bytes
    median = _slack(allocated, workload, constants)
    tails = (constants.slack_p95, constants.variable_p95)
    tail = _slack(allocated, workload, constants, tails)
    least = constants.least_share * median
    return Overhead(
        slack_p50_bytes=_under_pressure(median, room, least),
        slack_p95_bytes=_under_pressure(tail, room, least),
        context_bytes=context,
        nccl_bytes=nccl,
        spread=constants.spread,
        slack_least_bytes=least,
        tensor_spread=constants.tensor_spread,
        unlimited_slack_p50_bytes=median,
        unlimited_slack_p95_bytes=tail,
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
    free = _with_tails(median, tail, overhead.spread)
    counted = 0.0 if metric == "process" else overhead.context_bytes + overhead.nccl_bytes
    needed = needed_p95_of(allocated, overhead) - counted
    least = np.maximum(needed, overhead.spread * allocated.peak_bytes)
    full = overhead.usable_bytes
    return np.maximum(least, np.minimum(free, np.maximum(full, median)))


def unlimited_p95_of(allocated: Allocated, overhead: Overhead) -> Quantity:
    """The process at p95 on a card without end."""
    fixed = overhead.context_bytes + overhead.nccl_bytes
    median = allocated.peak_bytes + overhead.unlimited_slack_p50_bytes + fixed
    tail = overhead.unlimited_slack_p95_bytes - overhead.unlimited_slack_p50_bytes
    return _with_tails(median, tail, overhead.spread)


def _with_tails(median: Quantity, slack_tail: Quantity, spread: float) -> Quantity:
    return median + np.hypot((spread - 1.0) * median, slack_tail)


def needed_p95_of(allocated: Allocated, overhead: Overhead) -> Quantity:
    """Live tensors, what the allocator cannot give back, context and NCCL, at p95.

    Beyond the card's memory the run is out of memory.
    """
    fixed = overhead.context_bytes + overhead.nccl_bytes
    return overhead.tensor_spread * allocated.peak_bytes + overhead.slack_least_bytes + fixed


def _slack(
    allocated: Allocated,
    workload: Workload,
    constants: Constants,
    tails: tuple[float, float] = (1.0, 1.0),
) -> Quantity:
    """Reserved and unused: the step takes blocks that forward and backward have left, or adds."""
    passes = [value for name, value in allocated.phases.items() if name not in _ALIKE]
    hump = reduce(np.maximum, passes, allocated.static_bytes) - allocated.static_bytes
    # Gathered parameters have the same sizes in every step.
    gathered = allocated.components.get("gathered", 0.0)
    hump = np.maximum(hump - gathered, 0.0)
    # Of many small blocks alike some always fit; a few large ones hardly ever do.
    large = np.minimum(hump, _LARGE_COPIES * allocated.largest_tensor_bytes)
    variable = tails[1] * _variable_share(workload, constants)
    slack = tails[0] * constants.fixed_slack * hump + variable * large
    through_passes = allocated.static_bytes + gathered + hump + slack
    through_step = allocated.peak_bytes + constants.step_slack * allocated.transient_bytes
    if workload.sharding.startswith("zero"):
        # DeepSpeed's flat copies are too large for any block that the passes have left.
        step = allocated.phases.get("step", allocated.static_bytes)
        through_step = np.maximum(through_step, step + hump + slack)
    left = constants.loading_slack_bytes
    return np.maximum(through_passes, through_step) - allocated.peak_bytes + left


def _under_pressure(slack: Quantity, room: Quantity, least: Quantity) -> Quantity:
    """What the card leaves of the slack: a full one makes the allocator give segments back.

    Source: c10/cuda/CUDACachingAllocator.cpp, release_cached_blocks before an out-of-memory error.
    """
    return np.maximum(least, np.minimum(slack, room))


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
