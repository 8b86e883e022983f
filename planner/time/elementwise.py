"""What stands between the matrix products: norms, rotary positions, activations, adapters.

These kernels wait for memory, not for arithmetic. Bytes and kernels were counted from the eager
code of transformers (modeling_llama.py, modeling_clip.py) and PEFT (lora/layer.py), in two-byte
types: an RMS norm there reads and writes in fp32, step by step.
"""

from collections.abc import Sequence

from planner.architecture import LayerGroup, Tower
from planner.layout import Quantity
from planner.workload import Loss, Workload

_NO_ROTARY = {"gpt2", "mpt", "opt", "bloom", "gpt_bigcode", "gpt_neo"}

# RMS norm by steps: to fp32 (2+4), square (4+4), mean (4), scale (4+4), back (4+2), weight
# (2+2), and what the cast leaves; fused kernels read and write once.
_RMS_BYTES, _RMS_KERNELS = 36.0, 5
_FUSED_BYTES, _FUSED_KERNELS = 4.0, 1
# Autocast runs a layer norm in fp32: up (2+4), norm (4+4), down (4+2).
_AUTOCAST_NORM_BYTES = 20.0
# Rotary positions of queries and keys: two products, a turned copy and a sum.
_ROTARY_BYTES, _ROTARY_KERNELS = 20.0, 12
_RESIDUAL_BYTES, _RESIDUAL_KERNELS = 6.0, 2
_ATTENTION_BYTES, _ATTENTION_KERNELS = 4.0, 16
# Eager scores: write, mask, softmax in fp32, cast, read.
_SCORE_BYTES = 26.0
_ADAPTER_KERNELS, _GPTQ_KERNELS = 3, 5
# A logit: the product's write, up to fp32, log-softmax forward and backward, down again; the shift
# of older Hugging Face models copies once more.
_LOSS_BYTES: dict[Loss, float] = {
    "fp32": 40.0,
    "fp32_shifted": 48.0,
    "no_upcast": 16.0,
    "chunked": 40.0,
    "fused": 6.0,
}


def is_gptq(workload: Workload) -> bool:
    """Groups of 128 are GPTQ's and AWQ's custom; bitsandbytes takes blocks of 64."""
    method = workload.method
    return method.kind == "qlora" and (method.group >= 128 or method.bits == 8)


def is_fused(workload: Workload) -> bool:
    """Whether norms, positions and activations are single kernels.

    A fused loss comes with Liger or Unsloth, which fuse those too.
    """
    return workload.loss == "fused"


def fp32_adapters(workload: Workload) -> bool:
    """Whether adapters stand in fp32 beside a base in two bytes, as PEFT makes them."""
    kept = workload.method.adapter_dtype
    if kept != "auto" or workload.precision == "fp32":
        return kept == "fp32" and workload.precision != "fp32"
    return not workload.sharding.startswith("zero")


def loss_bytes(workload: Workload) -> float:
    """Bytes a logit moves, forward and backward, beside the matrix product."""
    return _LOSS_BYTES[workload.loss]


def element_bytes(
    tower: Tower,
    group: LayerGroup,
    ranks: Sequence[int],
    workload: Workload,
    tokens: Quantity,
    pairs: Quantity,
) -> Quantity:
    """Bytes that one layer moves in a forward pass beside its matrix products."""
    hidden = float(_width(tower, group))
    fused = is_fused(workload)
    norm = _norm_bytes(tower, workload)
    query = float(tower.heads * tower.head_dim)
    key = float(tower.kv_heads * tower.head_dim)
    a_token = hidden * (tower.norms_per_layer * norm + 2 * _RESIDUAL_BYTES)
    if tower.kind == "convnext":
        a_token += 8.0 * hidden
    else:
        a_token += _ATTENTION_BYTES * (query + key)
        if tower.qk_norm:
            a_token += norm * (query + key)
        if _rotary(tower):
            a_token += (_FUSED_BYTES if fused else _ROTARY_BYTES) * (query + key)
    a_token += _activation_bytes(tower, group, fused=fused) + _adapter_bytes(group, ranks, workload)
    if workload.attention == "eager":
        return tokens * a_token + pairs * (_SCORE_BYTES * tower.heads)
    return tokens * a_token


def kernel_count(
    tower: Tower, group: LayerGroup, ranks: Sequence[int], workload: Workload
) -> float:
    """Kernels that one layer starts in a forward pass."""
    fused = is_fused(workload)
    norm: float = _FUSED_KERNELS if fused or tower.norm == "layer" else _RMS_KERNELS
    count: float = (
        norm * (tower.norms_per_layer + 2 * tower.qk_norm) + 2 + (2 if tower.gated else 1)
    )
    count += sum(max(1.0, float(linear.copies)) for linear in group.linears)
    count += _ATTENTION_KERNELS if workload.attention != "eager" else _ATTENTION_KERNELS + 4
    if _rotary(tower):
        count += 1 if fused else _ROTARY_KERNELS
    count += sum(_ADAPTER_KERNELS for rank in ranks if rank)
    if is_gptq(workload) and tower.kind == "decoder":
        count += _GPTQ_KERNELS * len(group.linears)
    if any(linear.copies > 1 for linear in group.linears):
        # Tokens are sorted to every expert and added up again.
        count += 6 * max(linear.copies for linear in group.linears)
    return float(count)


def _norm_bytes(tower: Tower, workload: Workload) -> float:
    if is_fused(workload):
        return _FUSED_BYTES
    if tower.norm == "rms":
        return _RMS_BYTES
    return _AUTOCAST_NORM_BYTES if workload.precision.endswith("autocast") else _FUSED_BYTES


def _width(tower: Tower, group: LayerGroup) -> int:
    """Width of the layer: that of the tower, or of the stage."""
    return group.linears[0].inputs if tower.kind == "convnext" else tower.hidden


def _rotary(tower: Tower) -> bool:
    return tower.kind == "decoder" and tower.family not in _NO_ROTARY


def _activation_bytes(tower: Tower, group: LayerGroup, *, fused: bool) -> float:
    last = group.linears[-1]
    inner = last.inputs * last.active
    if not tower.gated:
        return 4.0 * inner
    return (6.0 if fused else 10.0) * inner


def _adapter_bytes(group: LayerGroup, ranks: Sequence[int], workload: Workload) -> float:
    """An adapter reads the input, and writes, scales and adds an output of full width."""
    reads = 2.0 + (5.0 if workload.method.dropout > 0 else 0.0)
    if fp32_adapters(workload):
        # The input goes up to fp32 for the adapter, and autocast brings it down again.
        reads += 12.0
    writes = 4.0 if is_fused(workload) else 12.0
    return sum(
        linear.active * (reads * linear.inputs + writes * linear.outputs)
        for linear, rank in zip(group.linears, ranks, strict=True)
        if rank
    )
