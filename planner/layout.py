"""The numbers that a search varies: each may be one number or an array of candidates."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from planner.workload import Workload

Quantity: TypeAlias = float | NDArray[np.float64]
"""A figure of one candidate, or of many side by side; formulas use numpy and take both."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How the work is spread over cards; all four are numbers, or arrays of one shape."""

    micro_batch: Quantity
    grad_accum: Quantity
    gpus: Quantity
    gpus_per_node: Quantity

    @property
    def global_batch(self) -> Quantity:
        """Samples an optimizer step."""
        return self.micro_batch * self.grad_accum * self.gpus

    @property
    def nodes(self) -> Quantity:
        """Nodes in use."""
        return np.ceil(self.gpus / self.gpus_per_node)


def layout_of(workload: Workload) -> Layout:
    """The one layout that a workload asks for."""
    return Layout(
        micro_batch=float(workload.micro_batch),
        grad_accum=float(workload.grad_accum),
        gpus=float(workload.gpus),
        gpus_per_node=float(min(workload.gpus, workload.gpus_per_node)),
    )
