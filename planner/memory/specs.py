"""From an architecture and a workload to the layers that the tape runs."""

from typing import Literal

from planner.architecture import Architecture, LayerGroup, Linear, Tower
from planner.memory.dtypes import adapter_bytes, autocast, compute_bytes, stream_bytes, weight_bytes
from planner.memory.layers import LayerSpec
from planner.memory.ops import Adapter, Matrix
from planner.models.trainable import is_attention, lora_linears
from planner.workload import Workload

Kernels = Literal["cuda", "cpu"]
"""Whose operators are meant: the card's, or those that the dry run traces."""

_NO_ROTARY = ("gpt2", "opt", "mpt", "bloom")
_PARTLY_ROTARY = {"gpt_neox": 0.25, "stablelm": 0.25, "phi": 0.5, "gptj": 0.25, "chatglm": 0.5}
_ROTARY_TOWERS = ("qwen2_vl_vision", "qwen2_5_vl_vision")
_PLAIN_SOFTMAX = ("gpt2", "gptj", "falcon")
_PARALLEL = ("gpt_neox", "falcon", "gptj", "phi", "cohere")


def decoder_specs(
    architecture: Architecture, workload: Workload, kernels: Kernels = "cuda"
) -> tuple[tuple[int, LayerSpec], ...]:
    """The language model's layers in order, each kind with its count."""
    tower = architecture.language_model
    method = workload.method
    adapted: frozenset[Linear] = frozenset()
    if method.kind in ("lora", "qlora"):
        adapted = frozenset(linear for _, linear in lora_linears(architecture, method))
    full = method.kind == "full"
    return tuple(
        (group.count, _spec(tower, group, workload, full, adapted, kernels))
        for group in tower.groups
    )


def reaches_embedding(architecture: Architecture, workload: Workload) -> bool:
    """Whether the backward goes down to the embedding: not where adapters alone are trained.

    Checkpointing needs an input with a gradient, so that PEFT marks the embedding's output.
    """
    return (
        workload.grad_ckpt.language_model
        or bool(architecture.towers)
        or workload.method.kind == "full"
        or workload.method.train_embeddings
    )


def encoder_specs(
    tower: Tower, workload: Workload, kernels: Kernels = "cuda"
) -> tuple[tuple[int, LayerSpec], ...]:
    """A vision tower's layers in order."""
    full = workload.towers == "trainable"
    return tuple(
        (
            group.count,
            _spec(
                tower,
                group,
                workload,
                full,
                frozenset(group.linears) if workload.towers == "lora" else frozenset(),
                kernels,
            ),
        )
        for group in tower.groups
    )


def _spec(
    tower: Tower,
    group: LayerGroup,
    workload: Workload,
    full: bool,
    adapted: frozenset[Linear],
    kernels: Kernels,
) -> LayerSpec:
    attends = _attention_linears(group, tower)
    matrices = [
        (
            index < attends,
            linear,
            _matrix(linear, tower, workload, full, adapted),
        )
        for index, linear in enumerate(group.linears)
    ]
    routed = tuple(m for inside, linear, m in matrices if not inside and linear.copies > 1)
    plain = tuple(
        m for inside, linear, m in matrices if not inside and linear.copies == 1 and m.outputs > 1
    )
    active = max((linear.active for linear in group.linears if linear.copies > 1), default=0.0)
    return LayerSpec(
        hidden=tower.hidden,
        heads=tower.heads,
        kv_heads=tower.kv_heads,
        head_dim=tower.head_dim,
        width=stream_bytes(workload),
        attention=tuple(m for inside, _, m in matrices if inside),
        mlp=plain[-_mlp_linears(tower, plain) :],
        experts=routed,
        active=int(active),
        gated=tower.gated,
        activation=tower.activation,
        norm=tower.norm,
        wide_scale=tower.family.startswith("gemma"),
        norms=tower.norms_per_layer,
        parallel=tower.norms_per_layer == 1 or tower.family in _PARALLEL,
        qk_norm=tower.qk_norm,
        rotary=_rotary(tower),
        eager=workload.attention == "eager",
        upcast_scores=tower.family not in _PLAIN_SOFTMAX,
        norm_trained=full,
        cuda=kernels == "cuda",
        softcap=is_softcapped(tower),
    )


def _attention_linears(group: LayerGroup, tower: Tower) -> int:
    """How many of a layer's linears make its attention; they come first."""
    if not group.linears:
        return 0
    named = sum(is_attention(group.linears, index) for index in range(len(group.linears)))
    if named > 1:
        return named
    return 2 if group.linears[0].outputs > tower.heads * tower.head_dim else 4


def _mlp_linears(tower: Tower, plain: tuple[Matrix, ...]) -> int:
    """How many make the perceptron; a Q-Former's cross-attention stands before them."""
    return 3 if tower.gated and len(plain) > 2 else 2


def is_softcapped(tower: Tower) -> bool:
    """Whether scores and logits go through a tanh: Gemma 2, between the first and the third."""
    return tower.family.startswith("gemma") and tower.norms_per_layer == 4 and not tower.qk_norm


def _rotary(tower: Tower) -> float:
    if tower.kind != "decoder":
        return 1.0 if tower.family in _ROTARY_TOWERS else 0.0
    if tower.family in _NO_ROTARY:
        return 0.0
    return _PARTLY_ROTARY.get(tower.family, 1.0)


def _matrix(
    linear: Linear,
    tower: Tower,
    workload: Workload,
    full: bool,
    adapted: frozenset[Linear],
) -> Matrix:
    method = workload.method
    size = linear.inputs * linear.outputs
    quantised = method.kind == "qlora" and tower.kind == "decoder"
    copied = autocast(workload) and weight_bytes(workload) == 4 and not quantised
    adapter = None
    if linear in adapted:
        adapter = Adapter(method.r, adapter_bytes(workload), method.dropout > 0)
    return Matrix(
        linear.inputs,
        linear.outputs,
        copies=linear.copies,
        gradient_width=weight_bytes(workload) if full else 0,
        adapter=adapter,
        kept_copy=2 * size if copied else 0,
        passing_copy=compute_bytes(workload) * size if quantised else 0,
        keeps_input=quantised and method.keeps_inputs,
    )
