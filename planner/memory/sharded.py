"""What a way of sharding holds on one card, by the moment of a step."""

from dataclasses import dataclass, field

import numpy as np

from planner.architecture import Architecture
from planner.layout import Layout, Quantity
from planner.memory.parts import Parts
from planner.memory.states import STATE_BYTES, weights_of
from planner.memory.trained import Trained
from planner.workload import Workload


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

    static: Parts
    """Through the whole step."""
    forward: Parts = field(default_factory=dict)
    """Beside it during the forward: gathered parameters."""
    backward: Parts = field(default_factory=dict)
    """Beside it during the backward, from the first gradient on."""
    loss: Parts = field(default_factory=dict)
    """Beside it during the backward of the loss, before the first gradient."""
    gathering: Gathering | None = None
    """How gathered parameters go away during the backward."""
    bucket: float = 0.0
    """Elements of ZeRO's bucket, which is copied once more when it is reduced."""
    last: Parts = field(default_factory=dict)
    """Beside the static bytes when the backward is over and the rest is reduced."""
    step: Parts = field(default_factory=dict)
    """Beside the static bytes in the optimizer's step."""
    keeps_gradients: bool = False
    """Whether gradients stay with their parameters as the backward makes them."""


def weight_parts(
    architecture: Architecture, workload: Workload, trained: Trained, share: Quantity
) -> Parts:
    """Weights and adapters, or a share of them."""
    own = trained.adapters * trained.adapter_width
    return {
        "weights": weights_of(architecture, workload, trained) * share,
        "adapters": own * share,
    }


def accumulates(layout: Layout) -> Quantity:
    """1 where gradients are kept over several micro batches, else 0."""
    return np.where(layout.grad_accum > 1, 1.0, 0.0)


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


def layer_parameters(architecture: Architecture) -> float:
    """Parameters of the largest layer of the language model."""
    return float(
        max(
            group.other + sum(linear.parameters for linear in group.linears)
            for group in architecture.language_model.groups
        )
    )
