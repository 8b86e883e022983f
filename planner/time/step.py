"""Seconds of one optimizer step."""

from collections.abc import Iterable

import numpy as np

from planner.architecture import Architecture
from planner.cards import Card
from planner.layout import Layout, Quantity
from planner.lengths import longest_of, mean_length
from planner.models.trainable import trainable_of
from planner.prediction import StepTime
from planner.time.communication import Traffic, collective_seconds, traffic_of
from planner.time.constants import DEFAULT, Constants
from planner.time.data import loading_seconds, wait_seconds
from planner.time.efficiency import dequantise_seconds, gpu_seconds, host_seconds
from planner.time.flops import part_flops
from planner.time.optimizer import optimizer_seconds, parameter_seconds
from planner.time.parts import Part, images_of, parts_of
from planner.workload import Workload

# Hooks of one FSDP unit, in modules of ZeRO-3.
_FSDP_HOOKS = 5.0
_FSDP = ("fsdp", "fsdp_grad_op")
_SYNCED = ("zero2", "zero3", "fsdp", "fsdp_grad_op")


def step_time_of(
    architecture: Architecture,
    workload: Workload,
    layout: Layout,
    card: Card,
    constants: Constants = DEFAULT,
) -> StepTime:
    """Seconds of one optimizer step, at the median and at p95.

    A micro step takes what the slowest of three needs that work side by side: the card, the host
    that starts its kernels, and the links. They overlap, but not fully: a p-norm stands for that.
    """
    parts = parts_of(architecture, workload, layout)
    trained = float(trainable_of(architecture, workload.method, workload.towers).total)
    busy = _busy_seconds(parts, workload, layout, card, constants)
    traffic = traffic_of(architecture, workload, trained)
    micro, final = _with_links(traffic, busy, workload, layout, card, constants)
    loading = loading_seconds(workload, layout, images_of(architecture, workload))

    compute = busy * layout.grad_accum
    exposed = (micro - busy) * layout.grad_accum + (final - busy)
    optimizer = optimizer_seconds(workload, layout, card, constants, trained)
    wait = wait_seconds(loading, micro) * layout.grad_accum
    median = compute + exposed + optimizer + wait
    return StepTime(
        compute_s=compute,
        exposed_communication_s=exposed,
        optimizer_s=optimizer,
        data_wait_s=wait,
        p50_s=median,
        p95_s=median * constants.spread,
        tokens_per_step=layout.global_batch * mean_length(workload.seq_len),
        flops_per_step=_flops(parts) * layout.grad_accum * layout.gpus,
    )


def _busy_seconds(
    parts: tuple[Part, ...], workload: Workload, layout: Layout, card: Card, constants: Constants
) -> Quantity:
    """Card and host of one micro step, side by side."""
    card_s = _sum(gpu_seconds(part, workload, card, constants) for part in parts)
    card_s = card_s + dequantise_seconds(parts, workload, card, constants)
    host_s = host_seconds(parts, constants) + _hook_seconds(parts, workload, constants)
    hidden = constants.fsdp_launch_norm if workload.sharding in _FSDP else constants.launch_norm
    return _overlapped(card_s * _imbalance(workload, layout), host_s, hidden)


def _with_links(
    traffic: Traffic,
    busy: Quantity,
    workload: Workload,
    layout: Layout,
    card: Card,
    constants: Constants,
) -> tuple[Quantity, Quantity]:
    """A micro step beside its collectives, and beside those of the whole step."""
    links = collective_seconds(traffic.micro_bytes, traffic.micro_calls, workload, layout, card)
    links = links + parameter_seconds(workload, layout, card, traffic.micro_bytes)
    final = collective_seconds(traffic.step_bytes, traffic.step_calls, workload, layout, card)
    norm = constants.zero3_norm if workload.sharding == "zero3" else constants.fsdp_norm
    return _overlapped(busy, links, norm), _overlapped(busy, final, norm)


def _sum(values: Iterable[Quantity]) -> Quantity:
    total: Quantity = 0.0
    for value in values:
        total = total + value
    return total


def _flops(parts: tuple[Part, ...]) -> Quantity:
    return _sum(count for part in parts for count in part_flops(part).values())


def _overlapped(first: Quantity, second: Quantity, norm: float) -> Quantity:
    """Of two that overlap, the longer and a little: ``(a^p + b^p)^(1/p)``.

    >>> round(float(_overlapped(3.0, 4.0, 2.0)), 3)
    5.0
    """
    longer, shorter = np.maximum(first, second), np.minimum(first, second)
    return longer * (1.0 + (shorter / longer) ** norm) ** (1.0 / norm)


def _hook_seconds(parts: tuple[Part, ...], workload: Workload, constants: Constants) -> float:
    """Hooks of the sharding wrapper: ZeRO-3 fetches module by module, FSDP layer by layer."""
    if workload.sharding not in ("zero3", "fsdp", "fsdp_grad_op"):
        return 0.0
    hooks = 0.0
    for part in parts:
        modules = len(part.linears) + 2 + 2 * sum(rank > 0 for rank in part.ranks)
        each = modules if workload.sharding == "zero3" else _FSDP_HOOKS
        hooks += part.layers * each * (1 + part.passes.recompute + part.passes.backward)
    return hooks * constants.module_us * 1e-6


def _imbalance(workload: Workload, layout: Layout) -> Quantity:
    """The slowest card over the average one: the longest batch of all cards decides.

    Where cards meet in every micro step, that is the longest of all their samples; where they
    meet once a step, the spread averages out over the accumulated micro batches.
    """
    if len(workload.seq_len.values) == 1:
        return 1.0
    own = longest_of(workload.seq_len, layout.micro_batch).mean
    all_cards = longest_of(workload.seq_len, layout.micro_batch * layout.gpus).mean
    excess = all_cards / own - 1.0
    if workload.sharding in _SYNCED:
        return 1.0 + excess
    return 1.0 + excess / np.sqrt(layout.grad_accum)
