"""The language model's phases: forward, loss, backward of the last and of the first layer."""

from dataclasses import dataclass

import numpy as np

from planner.architecture import Architecture
from planner.layout import Layout, Quantity
from planner.memory.dtypes import compute_bytes, weight_bytes
from planner.memory.head import CHUNKS, HeadSpec, recorded_head
from planner.memory.ops import Matrix
from planner.memory.recorded import Recorded, bytes_of, highest, recorded_layer
from planner.memory.reduction import Reduction, reduction_of
from planner.memory.sharding import Sharded, layer_parameters
from planner.memory.specs import Kernels, decoder_specs
from planner.memory.trained import Trained
from planner.memory.vision import images_of
from planner.workload import Workload

Parts = dict[str, Quantity]


@dataclass(frozen=True, slots=True)
class Language:
    """Components by phase, above the static bytes."""

    phases: dict[str, Parts]
    largest: Quantity
    """The largest tensor that comes and goes."""


@dataclass(frozen=True, slots=True)
class _Stack:
    """The layers as recorded, in order."""

    layers: tuple[tuple[int, Recorded], ...]
    first: Recorded
    """The first layer: without adapters below it, no gradient passes it."""


def language_of(
    architecture: Architecture,
    workload: Workload,
    layout: Layout,
    length: Quantity,
    trained: Trained,
    sharded: Sharded,
    kernels: Kernels,
) -> Language:
    """Evaluates the recorded layers and head for a layout."""
    tokens = layout.micro_batch * length + 0.0
    pairs = tokens * length
    stack = _stack(architecture, workload, kernels)
    store = _store(stack, tokens, pairs)
    start = tokens * architecture.language_model.hidden * compute_bytes(workload)
    kept = start + store
    head = _head_heights(architecture, workload, layout, length, kernels)
    weights = _gradients(architecture, workload, trained)
    several = np.where(layout.grad_accum > 1, 1.0, 0.0)
    fresh = (1.0 - several) if sharded.keeps_gradients else 0.0 * several
    last, first = stack.layers[-1][1], stack.first
    below_last = kept - bytes_of(last.saved, tokens, pairs)
    parts = {"activations": kept}
    head_gradient = weights.head * fresh + weights.tied
    upper = 1.0 - 1.0 / max(1, architecture.language_model.layers)
    layers = weights.layers * upper * fresh
    phases = {
        "forward": _plus({"activations": kept + _climb(stack, tokens, pairs)}, sharded.forward),
        "loss": _plus({**parts, "logits": head.forward}, sharded.loss or sharded.forward),
        "loss backward": _plus({**parts, "logits": head.backward}, sharded.loss),
        "backward": _plus(
            {
                "activations": below_last + _top(last, tokens, pairs, fresh),
                "gradients": head_gradient,
            },
            sharded.backward,
        ),
        "backward end": _plus(
            {
                "activations": start + _top(first, tokens, pairs, fresh),
                "gradients": head_gradient + layers,
            },
            _after(architecture, sharded, architecture.language_model.layers - 1),
        ),
    }
    if sharded.bucket:
        reduction = _reduction(architecture, stack, trained, sharded)
        for number, moment in enumerate(reduction.moments):
            below = _below(stack, moment.done + 1, kept, tokens, pairs)
            phases[f"reduce {number + 1}"] = _plus(
                {
                    "activations": below + bytes_of(moment.height, tokens, pairs),
                    "gradients": weights.tied,
                    "reduced": moment.elements * trained.width,
                },
                _after(architecture, sharded, moment.done),
            )
        phases["reduce"] = _plus({"reduced": reduction.pending * trained.width}, sharded.last)
    if weights.embedding:
        phases["embedding"] = _plus(
            {
                "activations": start,
                "gradients": weights.embedding
                + weights.tied * (1.0 if kernels == "cuda" else 2.0)
                + (weights.head + weights.layers) * fresh,
            },
            _after(architecture, sharded, architecture.language_model.layers),
        )
    return Language(phases, head.largest)


def _after(architecture: Architecture, sharded: Sharded, done: int) -> Parts:
    """What the sharding holds when the backward is through the head and some layers."""
    if sharded.gathering is None:
        return sharded.backward
    gone = architecture.head + done * layer_parameters(architecture)
    return {**sharded.backward, "gathered": sharded.gathering.after(gone)}


def _plus(parts: Parts, more: Parts) -> Parts:
    total = dict(parts)
    for name, value in more.items():
        total[name] = total.get(name, 0.0) + value
    return total


def _stack(architecture: Architecture, workload: Workload, kernels: Kernels) -> _Stack:
    checkpointed = workload.grad_ckpt.language_model
    specs = decoder_specs(architecture, workload, kernels)
    layers = tuple((count, recorded_layer(spec, checkpointed)) for count, spec in specs)
    grows = (
        checkpointed
        or bool(architecture.towers)
        or workload.method.kind == "full"
        or workload.method.train_embeddings
    )
    first = layers[0][1] if grows else recorded_layer(specs[0][1], False, with_gradient=False)
    return _Stack(layers, first)


def _store(stack: _Stack, tokens: Quantity, pairs: Quantity) -> Quantity:
    """What all layers leave for the backward."""
    total: Quantity = bytes_of(stack.first.saved, tokens, pairs)
    total = total - bytes_of(stack.layers[0][1].saved, tokens, pairs)
    for count, recorded in stack.layers:
        total = total + count * bytes_of(recorded.saved, tokens, pairs)
    return total


def _climb(stack: _Stack, tokens: Quantity, pairs: Quantity) -> Quantity:
    """How far the last layer's forward goes above what it leaves."""
    last = stack.layers[-1][1]
    return np.maximum(
        highest(last.forward, tokens, pairs) - bytes_of(last.saved, tokens, pairs), 0.0
    )


def _top(recorded: Recorded, tokens: Quantity, pairs: Quantity, fresh: Quantity) -> Quantity:
    """The top of one layer's backward, with its gradients where they stay."""
    top = highest(recorded.backward, tokens, pairs)
    kept = highest(recorded.backward_kept, tokens, pairs)
    return np.where(fresh > 0, kept, top)


def _below(stack: _Stack, done: int, kept: Quantity, tokens: Quantity, pairs: Quantity) -> Quantity:
    """What is left of the store when the backward is through some layers."""
    for count, recorded in reversed(stack.layers):
        part = min(count, done)
        kept = kept - part * bytes_of(recorded.saved, tokens, pairs)
        done -= part
    return np.maximum(kept, 0.0)


def _reduction(
    architecture: Architecture, stack: _Stack, trained: Trained, sharded: Sharded
) -> Reduction:
    """Follows the bucket through the backward of the language model."""
    counts = trained.counts
    rest = counts.embeddings + counts.projector + counts.towers + counts.tower_adapters
    layers = tuple((count, recorded.hooks) for count, recorded in reversed(stack.layers))
    return reduction_of(int(sharded.bucket), counts.head, layers, rest)


@dataclass(frozen=True, slots=True)
class _Gradients:
    """Bytes of gradients of the language model's own weights."""

    head: float
    tied: float
    """A tied head's gradient waits for the embedding's."""
    layers: float
    embedding: float


def _gradients(architecture: Architecture, workload: Workload, trained: Trained) -> _Gradients:
    width = float(weight_bytes(workload))
    counts = trained.counts
    matrix = architecture.vocab * architecture.language_model.hidden * width
    tied = matrix if counts.embeddings and architecture.tied else 0.0
    adapters = counts.adapters * float(trained.adapter_width)
    inner = counts.language_model * width + adapters
    return _Gradients(
        head=counts.head * width,
        tied=tied,
        layers=inner,
        embedding=matrix if counts.embeddings else 0.0,
    )


@dataclass(frozen=True, slots=True)
class _HeadHeights:
    forward: Quantity
    backward: Quantity
    largest: Quantity


def _head_heights(
    architecture: Architecture,
    workload: Workload,
    layout: Layout,
    length: Quantity,
    kernels: Kernels,
) -> _HeadHeights:
    tokens = layout.micro_batch * length + 0.0
    logit = 2.0 if workload.loss == "no_upcast" else 4.0
    seen = _seen(architecture, workload, layout, tokens)
    one = recorded_head(_head_spec(architecture, workload, kernels, many=False))
    many = recorded_head(_head_spec(architecture, workload, kernels, many=True))
    forward, backward = (
        np.where(
            layout.micro_batch > 1,
            highest(getattr(many, side), seen, 0.0 * seen),
            highest(getattr(one, side), seen, 0.0 * seen),
        )
        for side in ("forward", "backward")
    )
    return _HeadHeights(forward, backward, logit * architecture.vocab * seen)


def _seen(
    architecture: Architecture, workload: Workload, layout: Layout, tokens: Quantity
) -> Quantity:
    """Tokens that are logits at one time: all, those of a chunk, or those with a label (MGM)."""
    if workload.loss == "chunked":
        return tokens / CHUNKS
    if architecture.family == "mgm" and workload.loss == "fp32":
        image = workload.image_tokens or architecture.image_tokens
        pictures = images_of(architecture, workload, layout) * image
        return np.maximum(tokens - layout.micro_batch - pictures, 1.0)
    return tokens


def _head_spec(
    architecture: Architecture, workload: Workload, kernels: Kernels, *, many: bool
) -> HeadSpec:
    tower = architecture.language_model
    method = workload.method
    full = method.kind == "full"
    trained = full or (method.kind in ("lora", "qlora") and method.train_head)
    loss = workload.loss
    return HeadSpec(
        hidden=tower.hidden,
        vocab=architecture.vocab,
        width=compute_bytes(workload),
        norm=tower.norm,
        wide_scale=tower.family.startswith("gemma"),
        norm_trained=full,
        matrix=Matrix(
            tower.hidden,
            architecture.vocab,
            gradient_width=weight_bytes(workload) if trained else 0,
        ),
        loss="labelled" if architecture.family == "mgm" and loss == "fp32" else loss,
        softcap=tower.family.startswith("gemma")
        and tower.norms_per_layer == 4
        and not tower.qk_norm,
        in_place=kernels == "cuda",
        many=many and loss == "no_upcast",
    )
