"""Floating-point operations of one micro step on one card, by part and pass.

A multiply and an add are two operations. A matrix of k x n costs ``2kn`` a token and pass
(Kaplan et al. 2020, arXiv 2001.08361, table 1); attention ``4 s h`` a token, layer and pass, half
of it under a causal FlashAttention (Dao 2023, arXiv 2307.08691, section 4.1).
"""

from planner.architecture import Architecture
from planner.layout import Layout, Quantity
from planner.time.parts import Part, parts_of
from planner.workload import Workload


def flops_of(architecture: Architecture, workload: Workload, layout: Layout) -> dict[str, Quantity]:
    """Operations of one micro step on one card, by part; adapters and attention apart."""
    counts: dict[str, Quantity] = {}
    for part in parts_of(architecture, workload, layout):
        for name, count in part_flops(part).items():
            counts[name] = counts.get(name, 0.0) + count
    return counts


def part_flops(part: Part) -> dict[str, Quantity]:
    """The same of one part."""
    counts = {part.name: part.tokens * (weight_flops(part) * part.passes.matmul)}
    adapters = adapter_flops(part)
    if adapters:
        counts["adapters"] = part.tokens * adapters
    if part.score_passes:
        counts["attention"] = part.layers * part.score_flops * part.score_passes
    return counts


def weight_flops(part: Part) -> float:
    """Of all weights, a token and pass: two for every weight that it meets."""
    return part.layers * sum(2.0 * linear.matmul_weights for linear in part.linears)


def adapter_flops(part: Part) -> float:
    """Of all adapters, a token and micro step: ``2r(k + n)`` a pass, both gradients included."""
    passes = 3.0 + part.passes.recompute
    return part.layers * sum(
        2.0 * rank * linear.active * (linear.inputs + linear.outputs) * passes
        for linear, rank in zip(part.linears, part.ranks, strict=True)
    )
