"""What is trained, in bytes of the type that it is kept in."""

from dataclasses import dataclass

from planner.architecture import Architecture
from planner.memory.dtypes import adapter_bytes, weight_bytes
from planner.models.trainable import Trainable, trainable_of
from planner.workload import Workload


@dataclass(frozen=True, slots=True)
class Trained:
    """Parameters that get gradients, and their sizes."""

    counts: Trainable
    base_width: int
    adapter_width: int
    total: int
    """All parameters with a gradient."""
    copied: int
    """Parameters that PEFT copies to train them beside adapters: embeddings, the head."""
    largest: int
    """Numbers of the largest single parameter."""

    @property
    def adapters(self) -> int:
        """LoRA's matrices, in language model and towers."""
        return self.counts.adapters + self.counts.tower_adapters

    @property
    def base(self) -> int:
        """Everything trained but the adapters."""
        return self.total - self.adapters

    @property
    def own_bytes(self) -> float:
        """Their weights; their gradients take as much."""
        return float(self.base * self.base_width + self.adapters * self.adapter_width)

    @property
    def width(self) -> float:
        """Bytes of a trained number, on average."""
        return self.own_bytes / self.total if self.total else float(self.base_width)


def trained_of(architecture: Architecture, workload: Workload) -> Trained:
    """Sizes what a workload trains.

    Raises:
        PlannerError: no linear layer has a name among the method's targets.
    """
    method = workload.method
    counts = trainable_of(architecture, method, workload.towers)
    copies = method.kind in ("lora", "qlora") and not method.embeddings_in_place
    return Trained(
        counts=counts,
        base_width=weight_bytes(workload),
        adapter_width=adapter_bytes(workload),
        total=counts.total,
        copied=counts.embeddings + counts.head if copies else 0,
        largest=_largest(architecture, workload, counts),
    )


def _largest(architecture: Architecture, workload: Workload, counts: Trainable) -> int:
    """The largest trained matrix: an embedding, or one of a layer, or of an adapter."""
    tower = architecture.language_model
    linears = [linear for group in tower.groups for linear in group.linears]
    if counts.language_model:
        inner = max(linear.inputs * linear.outputs for linear in linears)
    else:
        inner = workload.method.r * max(max(x.inputs, x.outputs) for x in linears)
    projector = max((x.inputs * x.outputs for x in architecture.projector), default=0)
    return max(
        architecture.vocab * tower.hidden if counts.embeddings or counts.head else 0,
        inner if counts.language_model or counts.adapters else 0,
        projector if counts.projector else 0,
    )
