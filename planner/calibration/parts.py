"""What a calibration multiplies: the parts of a predicted step time and of a predicted peak."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from planner.architecture import Architecture
from planner.cards import Card
from planner.layout import Layout, Quantity
from planner.prediction import StepTime
from planner.time.constants import DEFAULT, Constants
from planner.time.step import step_time_of
from planner.workload import Workload

STATIC = frozenset("weights adapters gradients optimizer buckets".split())
"""Components that live through the whole step."""
CONST = frozenset("slack context nccl".split())
"""Components that are no live tensors."""


@dataclass(frozen=True, slots=True)
class TimeParts:
    """Of a step time without the wait for data."""

    floor_s: Quantity
    """What the host needs to start the kernels, whatever the tokens."""
    line_s: Quantity
    """What the card needs to work through them."""
    fixed_s: Quantity
    """Exposed communication and the optimizer."""


@dataclass(frozen=True, slots=True)
class MemoryParts:
    """Of a peak, in bytes."""

    static: Quantity
    dynamic: Quantity
    slack: Quantity
    """Fragmentation: what torch reserves beyond its live tensors."""
    context: Quantity
    """CUDA context and NCCL."""


def time_parts(
    architecture: Architecture,
    workload: Workload,
    layout: Layout,
    card: Card,
    step: StepTime,
    constants: Constants = DEFAULT,
) -> TimeParts:
    """Splits a predicted step into the host's launches, the card's work, and the rest.

    The card's work is the prediction for a host that starts kernels in no time; the launches are
    what gives the whole again under the planner's norm.
    """
    idle_host = replace(constants, launch_us=0.0, micro_ms=0.0, module_us=0.0)
    line = step_time_of(architecture, workload, layout, card, idle_host).compute_s
    line = np.minimum(line, step.compute_s)
    norm = constants.launch_norm
    share = np.maximum(1.0 - (line / step.compute_s) ** norm, 0.0)
    floor = step.compute_s * share ** (1.0 / norm)
    return TimeParts(floor, line, step.exposed_communication_s + step.optimizer_s)


def memory_parts(components: Mapping[str, Quantity]) -> MemoryParts:
    """Groups the components of a peak.

    >>> parts = memory_parts({"weights": 5.0, "logits": 2.0, "slack": 0.5, "context": 1.0})
    >>> float(parts.static), float(parts.dynamic), float(parts.slack), float(parts.context)
    (5.0, 2.0, 0.5, 1.0)
    """

    def total(names: frozenset[str]) -> Quantity:
        chosen = (value for name, value in components.items() if name in names)
        return sum(chosen, start=np.float64(0.0))

    moving = frozenset(components) - STATIC - CONST
    slack = frozenset({"slack"})
    return MemoryParts(total(STATIC), total(moving), total(slack), total(CONST - slack))
