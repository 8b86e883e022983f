"""What the planner answers for one workload: memory, time and cost, each with its parts."""

from collections.abc import Mapping
from dataclasses import dataclass

from planner.layout import Quantity

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Memory:
    """Peak memory of the fullest card, in bytes, as a maximum over the phases of a step."""

    components: Mapping[str, Quantity]
    """Bytes at the peak by component; they sum to the p50 of the chosen metric."""
    phases: Mapping[str, Quantity]
    """Allocated bytes at the peak of every phase."""
    allocated_bytes: Quantity
    """The closed form: torch's max_memory_allocated."""
    peak_p50_bytes: Quantity
    """In the workload's own metric (allocated, reserved or process)."""
    peak_p95_bytes: Quantity
    process_p50_bytes: Quantity
    process_p95_bytes: Quantity
    """As the driver shows it: cached blocks count, and end where the card ends."""
    needed_p95_bytes: Quantity
    """What the card must hold when the allocator has given back all that it can: the fit is
    decided on this, whatever the metric."""
    unlimited_p95_bytes: Quantity
    """The process on a card without end: above the real card's memory the run may live by giving
    cached blocks back, and a search does not choose that."""
    host_bytes: Quantity
    """Host RAM a node: offloaded states, pinned copies, loading, data workers."""
    checkpoint_bytes: Quantity
    """One checkpoint on disk, over all ranks."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of one optimizer step, by what the card waits for."""

    compute_s: Quantity
    exposed_communication_s: Quantity
    optimizer_s: Quantity
    data_wait_s: Quantity
    p50_s: Quantity
    p95_s: Quantity
    tokens_per_step: Quantity
    flops_per_step: Quantity
    """Floating-point operations of all cards that the hardware does."""

    @property
    def tokens_per_s(self) -> Quantity:
        """Tokens of all cards together, at the median."""
        return self.tokens_per_step / self.p50_s


@dataclass(frozen=True, slots=True)
class Hours:
    """The run on the clock."""

    steps: Quantity
    train_hours_p50: Quantity
    """Steps alone."""
    hours_p50: Quantity
    """With start-up, checkpoints, evaluation and expected interruptions; without the queue."""
    hours_p95: Quantity
    wall_hours_p50: Quantity
    """With queue waits too."""
    goodput: Quantity
    """Share of the allocated time in which the training moves on."""
    checkpoint_interval_s: Quantity
    """The interval that loses least (Daly)."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run takes from the budget."""

    gpu_hours_p50: Quantity
    gpu_hours_p95: Quantity
    cost_p50: Quantity
    cost_p95: Quantity
    currency: str
    price_per_gpu_hour: Quantity
    price_source: str
    price_date: str
    energy_kwh: Quantity
    co2_kg: Quantity


@dataclass(frozen=True, slots=True)
class Prediction:
    """Everything about one workload."""

    fits: bool | None
    """At p95 against the card's usable memory; None where the card's size is not known."""
    memory: Memory
    step: StepTime
    hours: Hours | None
    """None where neither samples nor steps are given."""
    cost: Cost | None
    binding: str
    """The component that takes most of the peak."""
    notes: tuple[str, ...] = ()
    """Assumptions that the reader must know: converted precisions, approximations."""
