"""A plan: what was asked, what is possible, what was chosen and why."""

from dataclasses import dataclass
from typing import Any, Literal

from planner.prediction import Prediction
from planner.workload import Workload

PLAN_VERSION = 1


@dataclass(frozen=True, slots=True)
class CardOffer:
    """One kind of card that may be used."""

    gpu: str
    gpus_per_node: int
    max_gpus: int
    price_per_gpu_hour: float | None = None
    preemptible: bool = False
    partition: str | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """The question: a workload, a global batch that is kept exactly, and what may be varied."""

    workload: Workload
    global_batch: int
    offers: tuple[CardOffer, ...]
    objective: Literal["cheapest", "fastest"] = "cheapest"
    deadline_hours: float | None = None
    budget: float | None = None
    """In the currency of the prices."""
    shardings: tuple[str, ...] = ("zero0", "zero1", "zero2", "zero3")
    offloads: tuple[str, ...] = ("none", "optimizer", "optimizer_params")
    grad_ckpt: tuple[bool, ...] = (False, True)
    losses: tuple[str, ...] = ("fp32",)
    """What the trainer can do now; others are tried for the cheapest change that unlocks more."""
    micro_batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class Choice:
    """One configuration that fits."""

    gpu: str
    gpus: int
    nodes: int
    gpus_per_node: int
    sharding: str
    offload: str
    micro_batch: int
    grad_accum: int
    grad_ckpt: bool
    loss: str
    preemptible: bool
    partition: str | None
    prediction: Prediction


@dataclass(frozen=True, slots=True)
class Rejected:
    """A neighbour of the choice, and why it was not taken."""

    change: str
    """What differs from the choice, as words: ``ZeRO-1``, ``micro batch 8``."""
    reason: str


@dataclass(frozen=True, slots=True)
class Unlock:
    """The cheapest change that makes the next option possible."""

    change: str
    frees_bytes: float
    then: str
    """What becomes possible."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer; written as JSON beside the run, and what an approver signs."""

    version: int
    created: str
    """ISO 8601, UTC."""
    config_hash: str
    """Of the experiment that the plan was made for; a changed experiment needs a new plan."""
    ask: Ask
    chosen: Choice | None
    why: str
    feasible: tuple[Choice, ...]
    """The best few of each kind, in the order of the objective."""
    pareto: tuple[int, ...]
    """Positions in ``feasible`` that no other beats in both cost and hours."""
    rejected: tuple[Rejected, ...]
    binding: str
    unlock: Unlock | None
    nearest: str | None
    """Where nothing is feasible: the nearest plan that would be."""
    candidates: int
    assumptions: tuple[str, ...]
    calibration: str
    """The calibration that was used and its errors, or that there is none."""
    sensitivity: tuple[dict[str, Any], ...] = ()
    """What moves the cost: parameter, low and high value, cost at each."""
