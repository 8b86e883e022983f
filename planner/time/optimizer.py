"""Seconds of the optimizer's step, on the card or, offloaded, on the host."""

import numpy as np

from planner.cards import Card
from planner.layout import Layout, Quantity
from planner.time.constants import Constants
from planner.time.efficiency import bandwidth
from planner.workload import Workload

_GIGA = 1e9
# Clip the gradient (2 B), read it again (2), read and write master weights and two moments
# (24), write the weights (2); foreach kernels go over them more than once.
_STEP_BYTES = 40.0
# DeepSpeed's CPU Adam: 0.22 s a billion parameters on a node (ZeRO-Offload, arXiv 2101.06840,
# table 4).
_CPU_S_PER_PARAMETER = 0.22e-9
_PCIE_SHARE = 0.8
_SHARDED = ("zero1", "zero2", "zero3", "fsdp", "fsdp_grad_op")


def optimizer_seconds(
    workload: Workload, layout: Layout, card: Card, constants: Constants, trained: float
) -> Quantity:
    """One optimizer step over what is trained, sharded from ZeRO-1 on.

    Offloaded: gradients go down and weights come up over PCIe (2 + 2 bytes a parameter), and
    the node's processors update the shards of all its cards.
    """
    share = 1.0 / layout.gpus if workload.sharding in _SHARDED else 0.0 * layout.gpus + 1.0
    if workload.offload == "none":
        return trained * share * _STEP_BYTES / bandwidth(card, constants)
    own = trained * share
    moved = own * 4.0 / host_rate(workload, card)
    cards = np.minimum(layout.gpus, layout.gpus_per_node)
    return moved + own * cards * _CPU_S_PER_PARAMETER


def parameter_seconds(
    workload: Workload, layout: Layout, card: Card, gathered: Quantity
) -> Quantity:
    """Seconds a micro step in which offloaded parameters come up from the host, once a gather."""
    if workload.offload != "optimizer_params":
        return 0.0
    return gathered / layout.gpus / host_rate(workload, card)


def host_rate(workload: Workload, card: Card) -> float:
    """Bytes a second between a card and pinned memory of its host."""
    return (workload.interconnect.host_gb_per_s or card.host_gb_per_s) * _PCIE_SHARE * _GIGA
