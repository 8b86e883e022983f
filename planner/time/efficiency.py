"""Seconds of a part on a card: matrix products, attention, element-wise kernels, launches."""

import numpy as np

from planner.cards import Card
from planner.layout import Quantity
from planner.time.constants import Constants
from planner.time.elementwise import is_gptq
from planner.time.parts import Part
from planner.workload import Workload

_TERA, _GIGA, _MICRO = 1e12, 1e9, 1e-6
# Where nobody measured a card, the mean share of those that were (gpus.csv).
_MEASURED_SHARE = 0.85
_FLASH, _FLASH_HOPPER, _NO_FLASH, _FLASH_HALF = 0.61, 0.335, 0.3, 600.0
_INNER_HALF = 100.0
_HOPPER = ("H100", "H200", "H800", "GH200")


def matmul_rate(card: Card, workload: Workload, constants: Constants) -> float:
    """Operations a second that large matrix products of a layer reach."""
    if workload.precision == "fp32":
        return card.fp32_tflops * _MEASURED_SHARE * _TERA
    best = card.measured_matmul_tflops or card.half_tflops * _MEASURED_SHARE
    share = constants.hopper_share if card.name.startswith(_HOPPER) else constants.matmul_share
    return best * share * _TERA


def score_rate(part: Part, workload: Workload, card: Card) -> Quantity:
    """Operations a second of attention, which rise with the length.

    FlashAttention-2, forward and backward, causal: about 190 TFLOPS on A100 and 330 on H100 at
    long samples, half of it at some 600 tokens (arXiv 2307.08691, figures 4 and 7).
    """
    peak = card.fp32_tflops if workload.precision == "fp32" else card.half_tflops
    share = _FLASH_HOPPER if card.name.startswith(_HOPPER) else _FLASH
    if card.bf16_tflops is None or workload.attention == "eager":
        share = _NO_FLASH
    # A part without tokens takes no time, at any rate.
    length = np.maximum(part.length, 1.0)
    return peak * _TERA * share * length / (length + _FLASH_HALF)


def bandwidth(card: Card, constants: Constants) -> float:
    """Bytes a second that element-wise kernels reach."""
    return card.memory_gb_per_s * constants.bandwidth_share * _GIGA


def gpu_seconds(part: Part, workload: Workload, card: Card, constants: Constants) -> Quantity:
    """What the card itself needs for a part in one micro step."""
    rate, moved = matmul_rate(card, workload, constants), bandwidth(card, constants)
    width = 4.0 if workload.precision == "fp32" else 2.0
    ramp = constants.ramp_us * _MICRO
    products: Quantity = 0.0
    for linear, rank in zip(part.linears, part.ranks, strict=True):
        products = products + part.passes.matmul * _product(
            part.tokens * linear.active,
            linear.inputs,
            linear.outputs,
            linear.copies,
            (rate, moved / width, ramp),
        )
        if rank:
            thin = (3.0 + part.passes.recompute) * part.tokens * linear.active
            both = rank * (linear.inputs + linear.outputs)
            reads = (linear.inputs + linear.outputs + 2 * rank) * width
            products = products + np.maximum(thin * (2.0 * both / rate), thin * (reads / moved))
    scores = part.score_flops * part.score_passes / score_rate(part, workload, card)
    elements = part.element_bytes * (part.element_passes * constants.traffic / moved)
    return part.layers * (products + scores + elements)


def _product(
    tokens: Quantity, inputs: int, outputs: int, copies: int, speed: tuple[float, float, float]
) -> Quantity:
    """One matrix product: arithmetic or memory, whichever is slower, and its start.

    The roofline of Williams et al. 2009 (CACM 52-4).
    """
    rate, values_per_s, ramp = speed
    # A tile starts and ends: short inner dimensions reach less.
    full = rate * inputs / (inputs + _INNER_HALF)
    arithmetic = tokens * (2.0 * inputs * outputs / full)
    weights = float(copies) * inputs * outputs
    memory = (tokens * (inputs + outputs) + weights) / values_per_s
    return np.maximum(arithmetic, memory) + ramp * copies


def host_seconds(parts: tuple[Part, ...], constants: Constants) -> float:
    """What the host needs to start all kernels of a micro step."""
    kernels = sum(part.launches for part in parts)
    return constants.launch_us * _MICRO * kernels + constants.micro_ms / 1000.0


def dequantise_seconds(
    parts: tuple[Part, ...], workload: Workload, card: Card, constants: Constants
) -> float:
    """Unpacking the weights of a quantised base, once a pass, whatever the tokens."""
    if workload.method.kind != "qlora":
        return 0.0
    each = constants.dequant_gptq_bytes if is_gptq(workload) else constants.dequant_nf4_bytes
    weights = sum(
        part.layers
        * sum(float(linear.copies) * linear.inputs * linear.outputs for linear in part.linears)
        * part.passes.matmul
        for part in parts
        if part.name == "language_model"
    )
    return weights * each / bandwidth(card, constants)
