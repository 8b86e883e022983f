"""Weights that live through the whole step, quantised where they are."""

from planner.architecture import Architecture
from planner.memory.dtypes import weight_bytes
from planner.memory.trained import Trained
from planner.workload import Workload

STATE_BYTES = {
    "adamw": 8.0,
    "adamw_8bit": 2.0 + 8.0 / 256,
    "paged_adamw_8bit": 0.0,
    "adafactor": 0.01,
    "lion": 4.0,
    "sgd": 0.0,
}
"""Bytes of optimizer states a parameter in fp32; 8-bit states have two fp32 scales in 256 numbers
(bitsandbytes); paged ones lie in managed memory that moves to the host when the card is full;
Adafactor keeps a row and a column of every matrix."""


def weights_of(architecture: Architecture, workload: Workload, trained: Trained) -> float:
    """Bytes of the model's weights, with PEFT's copies of what it trains in full."""
    width = weight_bytes(workload)
    copies = trained.copied * width
    if workload.method.kind != "qlora":
        return float(architecture.parameters * width + copies)
    quantised = sum(
        group.count * linear.copies * linear.inputs * linear.outputs
        for group in architecture.language_model.groups
        for linear in group.linears
    )
    rest = architecture.parameters - quantised
    return quantised * quantised_bytes(workload) + rest * width + copies


def quantised_bytes(workload: Workload) -> float:
    """Bytes of one quantised weight with its scales (QLoRA, arXiv 2305.14314, section 3).

    4 bits and one fp32 scale a group; with double quantisation an 8-bit scale, and one fp32 scale
    for 256 of those: 0.5 and 0.127 bits a weight at group 64.
    """
    method = workload.method
    if method.bits == 8:
        return 1.0
    scale = 1.0 + 4.0 / 256 if method.double_quant else 4.0
    return method.bits / 8 + scale / method.group
