"""Seconds that cards talk to each other, by sharding stage, over the real links."""

from dataclasses import dataclass

import numpy as np

from planner.architecture import Architecture
from planner.cards import Card
from planner.layout import Layout, Quantity
from planner.workload import Workload

_GIGA, _MICRO = 1e9, 1e-6
_NODE_GB_PER_S = ((450.0, 400.0), (300.0, 200.0), (0.0, 25.0))
"""Links between the cards of a node and between nodes, GB/s: as NVIDIA's DGX H100 (8 x 400 Gb/s)
and DGX A100 (8 x 200 Gb/s) where cards have their NVLink, else one 200 Gb/s link a node."""
# What collectives reach of a link's rate: Calculon's tables (NVLink 0.65, InfiniBand 0.9). Over
# PCIe without peer access every byte goes to the host and back.
_PEER_SHARE, _NODE_SHARE, _HOST_SHARE = 0.65, 0.90, 0.40
# Start of a collective, and one more hop of the ring.
_START_US, _HOP_US = 25.0, 1.0
_QUANTISED_BYTES = 0.53


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of tensors that collectives move; a ring carries (N - 1)/N of each on every link."""

    micro_bytes: Quantity
    """Every micro step: gathers of parameters, reductions of gradients."""
    step_bytes: Quantity
    """Once an optimizer step."""
    micro_calls: float
    step_calls: float


def traffic_of(architecture: Architecture, workload: Workload, trained: float) -> Traffic:
    """What each stage sends (ZeRO, arXiv 1910.02054, section 7; FSDP, arXiv 2304.11277, 3.2).

    - DDP, ZeRO-0 and 1: gradients are reduced and results gathered once a step: ``2 P_t``.
    - ZeRO-2: gradients are reduced in every micro step, as DeepSpeed's stage_1_and_2.py does
      with partitioned gradients; parameters gathered once a step.
    - FSDP's SHARD_GRAD_OP: all parameters gathered for the forward pass of every micro step.
    - ZeRO-3 and FULL_SHARD: all parameters, frozen ones too, gathered forward and backward.
    """
    stage = workload.sharding
    width = 4.0 if workload.precision == "fp32" else 2.0
    gradients = trained * width
    layers = float(architecture.language_model.layers)
    if stage in ("none", "ddp", "zero0", "zero1"):
        return Traffic(0.0, 0.0 if stage == "none" else 2 * gradients, 0.0, 8.0)
    if stage == "zero2":
        return Traffic(gradients, gradients, 4.0, 4.0)
    once = _gathered_bytes(architecture, workload, width)
    backward = once if stage in ("zero3", "fsdp") else 0.0
    if workload.towers == "frozen":
        # A frozen tower has no backward pass.
        backward -= min(backward, sum(tower.parameters for tower in architecture.towers) * width)
    calls = layers * (2.0 + (backward > 0))
    return Traffic(once + backward + gradients, 0.0, calls, 0.0)


def _gathered_bytes(architecture: Architecture, workload: Workload, width: float) -> float:
    """All parameters in the type that they are gathered in; a quantised base stays quantised."""
    if workload.method.kind != "qlora":
        return architecture.parameters * width
    layers = sum(
        group.count * linear.copies * linear.inputs * linear.outputs
        for group in architecture.language_model.groups
        for linear in group.linears
    )
    bits = workload.method.bits / 4 * _QUANTISED_BYTES
    return (architecture.parameters - layers) * width + layers * bits


def collective_seconds(
    moved_bytes: Quantity, calls: float, workload: Workload, layout: Layout, card: Card
) -> Quantity:
    """Seconds to gather or reduce tensors of so many bytes over all cards.

    A ring carries ``f B`` over every link, f = (N - 1)/N (Patarasuk and Yuan 2009, JPDC 69-2);
    the slower of the links within and between nodes decides.
    """
    gpus = layout.gpus
    share = (gpus - 1.0) / gpus
    within = peer_rate(workload, card)
    links = workload.interconnect.node_gb_per_s or default_node_gb_per_s(card)
    between = links * _NODE_SHARE * _GIGA
    slowest = np.where(layout.nodes > 1, min(within, between), within)
    several = np.where(gpus > 1, 1.0, 0.0)
    latency = calls * _MICRO * (_START_US + _HOP_US * (gpus - 1.0))
    seconds: Quantity = several * (share * moved_bytes / slowest + latency)
    return seconds


def default_node_gb_per_s(card: Card) -> float:
    """Between two nodes where nobody has said: what is built around such cards.

    >>> from planner.cards import card_of
    >>> [default_node_gb_per_s(card_of(name)) for name in ("H100", "A100", "L40S")]
    [400.0, 200.0, 25.0]
    """
    peer = card.peer_gb_per_s or 0.0
    return next(between for within, between in _NODE_GB_PER_S if peer >= within)


def peer_rate(workload: Workload, card: Card) -> float:
    """Bytes a second that a collective reaches within a node."""
    links = workload.interconnect
    peer = links.peer_gb_per_s or card.peer_gb_per_s
    if peer is not None:
        return peer * _PEER_SHARE * _GIGA
    return (links.host_gb_per_s or card.host_gb_per_s) * _HOST_SHARE * _GIGA
