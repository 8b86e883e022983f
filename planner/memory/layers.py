"""One layer of a transformer, written in the tape's operators as transformers' files write it.

Order and variables follow modeling_llama.py (and its kin): what a local variable holds there is
held here.
"""

from dataclasses import dataclass
from typing import Literal

from planner.memory.attention import attention, eager_attention, rotary
from planner.memory.ops import (
    Matrix,
    adapted,
    add,
    elementwise,
    keeps_result,
    layer_norm,
    mul,
    rms_norm,
    scaled,
    weighted,
)
from planner.memory.tape import PAIR, TOKEN, Tape, Value


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """What decides the tensors of one layer."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    width: int
    """Bytes of an activation's number."""
    attention: tuple[Matrix, ...]
    """Query, key, value and output; or the fused one and the output."""
    mlp: tuple[Matrix, ...]
    """Gate, up and down; fused gate-and-up and down; or up and down; empty beside experts."""
    experts: tuple[Matrix, ...]
    """The same of one expert, where there are experts."""
    active: int
    """Experts that a token passes through."""
    gated: bool
    activation: str
    norm: Literal["rms", "layer"]
    wide_scale: bool
    """Gemma's RMS norm scales in fp32."""
    norms: int
    parallel: bool
    """Attention and MLP read the same input (GPT-NeoX, Phi)."""
    qk_norm: bool
    rotary: float
    """Share of a head that is rotated; 0 without rotary positions."""
    eager: bool
    norm_trained: bool
    cuda: bool
    """CUDA's kernels: a softmax that upcasts by itself, gradients summed in place."""
    softcap: bool = False
    upcast_scores: bool = True
    """Whether eager attention takes its softmax in fp32."""

    @property
    def query(self) -> int:
        """Width of all query heads."""
        return self.heads * self.head_dim

    @property
    def key_value(self) -> int:
        """Width of all key heads."""
        return self.kv_heads * self.head_dim


def layer(tape: Tape, hidden: Value, spec: LayerSpec) -> Value:
    """Runs one layer forward."""
    if spec.parallel:
        return _parallel(tape, hidden, spec)
    residual = hidden
    hidden = _norm(tape, hidden, spec)
    hidden = self_attention(tape, hidden, spec)
    if spec.norms == 4:
        hidden = _norm(tape, hidden, spec)
    hidden = add(tape, residual, hidden)
    residual = hidden
    hidden = _norm(tape, hidden, spec)
    hidden = feed_forward(tape, hidden, spec)
    if spec.norms == 4:
        hidden = _norm(tape, hidden, spec)
    return add(tape, residual, hidden)


def _parallel(tape: Tape, hidden: Value, spec: LayerSpec) -> Value:
    """Attention and MLP side by side, on one norm (Phi) or on one each (GPT-NeoX)."""
    residual = hidden
    normed = _norm(tape, hidden, spec)
    attended = self_attention(tape, normed, spec)
    if spec.norms > 1:
        normed = _norm(tape, hidden, spec)
    fed = feed_forward(tape, normed, spec)
    both = add(tape, fed, attended)
    return add(tape, both, residual)


def _norm(tape: Tape, x: Value, spec: LayerSpec) -> Value:
    if spec.norm == "layer":
        return layer_norm(tape, x)
    return rms_norm(tape, x, trained=spec.norm_trained, wide_scale=spec.wide_scale)


def self_attention(tape: Tape, hidden: Value, spec: LayerSpec) -> Value:
    """Projections, rotary positions, attention and the output projection."""
    if len(spec.attention) < 2:
        return _chain(tape, hidden, spec.attention)
    q, k, v = _projected(tape, hidden, spec)
    if spec.qk_norm:
        q, k = _norm(tape, q, spec), _norm(tape, k, spec)
    if spec.rotary:
        turned_q = rotary(tape, q, spec.rotary)
        turned_k = rotary(tape, k, spec.rotary)
        q, k = turned_q, turned_k
        del turned_q, turned_k
    if spec.eager:
        out = eager_attention(
            tape,
            q,
            k,
            v,
            spec.heads * PAIR,
            fused_upcast=spec.cuda,
            softcap=spec.softcap,
            upcast=spec.upcast_scores,
        )
    else:
        out = attention(tape, q, k, v, spec.heads * TOKEN)
    return adapted(tape, out, spec.attention[-1])


def _projected(tape: Tape, hidden: Value, spec: LayerSpec) -> tuple[Value, Value, Value]:
    if len(spec.attention) == 4:
        q, k, v = (adapted(tape, hidden, matrix) for matrix in spec.attention[:3])
        return q, k, v
    if len(spec.attention) > 4:
        return _latent(tape, hidden, spec)
    fused = adapted(tape, hidden, spec.attention[0])
    rows = hidden.elements // spec.hidden
    widths = (spec.query, spec.key_value, spec.key_value)
    q, k, v = (_slice(tape, fused, rows * width) for width in widths)
    return q, k, v


def _latent(tape: Tape, hidden: Value, spec: LayerSpec) -> tuple[Value, Value, Value]:
    """Multi-head latent attention (DeepSeek-V2): queries, keys and values come through a waist."""
    *query, narrow, wide = spec.attention[:-1]
    q = hidden
    for matrix in query:
        q = adapted(tape, q, matrix)
    waist = adapted(tape, hidden, narrow)
    rows = hidden.elements // spec.hidden
    waist = _slice(tape, waist, rows * wide.inputs)
    both = adapted(tape, rms_norm(tape, waist, trained=spec.norm_trained), wide)
    v = _slice(tape, both, rows * spec.attention[-1].inputs)
    k = tape.result(q.elements, q.width, (both,), lambda grad: (grad,))
    return q, k, v


def _chain(tape: Tape, hidden: Value, matrices: tuple[Matrix, ...]) -> Value:
    """Linears of a shape that no family here has, one after the other."""
    for matrix in matrices:
        hidden = adapted(tape, hidden, matrix)
    return hidden


def _slice(tape: Tape, x: Value, elements: int) -> Value:
    """A part of a fused projection: a view, whose gradient is a full tensor."""
    size = x.elements * x.width
    part = tape.alias(x, lambda _: (tape.new(size),))
    part.elements = elements
    return part


def feed_forward(tape: Tape, hidden: Value, spec: LayerSpec) -> Value:
    """The perceptron; or the experts, and what every token passes through beside them."""
    if not spec.experts:
        return mlp(tape, hidden, spec.mlp, spec)
    out = _experts(tape, hidden, spec)
    if spec.mlp:
        out = add(tape, out, mlp(tape, hidden, spec.mlp, spec))
    return out


def _experts(tape: Tape, hidden: Value, spec: LayerSpec) -> Value:
    """Tokens are gathered for their experts, weighted by the router, and added up again."""
    size = hidden.elements * hidden.width
    gathered = tape.result(
        spec.active * hidden.elements, hidden.width, (hidden,), lambda _: (tape.new(size),)
    )
    fed = mlp(tape, gathered, spec.experts, spec)
    del gathered
    fed = weighted(tape, fed, trained=True)
    spread = spec.active * size
    return tape.result(hidden.elements, hidden.width, (fed,), lambda _: (tape.new(spread),))


def mlp(tape: Tape, hidden: Value, matrices: tuple[Matrix, ...], spec: LayerSpec) -> Value:
    """The perceptron, with a gate or without."""
    if len(matrices) < 2:
        return _chain(tape, hidden, matrices)
    if not spec.gated:
        inner = adapted(tape, hidden, matrices[0])
        inner = activated(tape, inner, spec.activation)
        return adapted(tape, inner, matrices[1])
    if len(matrices) == 2:
        fused = adapted(tape, hidden, matrices[0])
        half = fused.elements // 2
        gate, up = _slice(tape, fused, half), _slice(tape, fused, half)
        del fused
        inner = mul(tape, up, activated(tape, gate, spec.activation))
        return adapted(tape, inner, matrices[1])
    gate = adapted(tape, hidden, matrices[0])
    gate = activated(tape, gate, spec.activation)
    up = adapted(tape, hidden, matrices[1])
    inner = mul(tape, gate, up)
    del gate, up
    return adapted(tape, inner, matrices[2])


def activated(tape: Tape, x: Value, kind: str) -> Value:
    """An activation by its name in ``transformers.activations``."""
    if kind == "quick_gelu":
        return mul(tape, x, keeps_result(tape, scaled(tape, x)))
    if kind == "gelu_new":
        return _gelu_new(tape, x)
    if kind == "relu":
        return keeps_result(tape, x)
    return elementwise(tape, x)


def _gelu_new(tape: Tape, x: Value) -> Value:
    """``0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3)))``, operator by operator."""
    half = scaled(tape, x)
    cube = scaled(tape, elementwise(tape, x, temporaries=2))
    inner = scaled(tape, add(tape, x, cube))
    del cube
    inner = scaled(tape, keeps_result(tape, inner))
    return mul(tape, half, inner)
