"""The language model's phases: forward, loss, and backward from the last layer to the first."""

from dataclasses import dataclass

import numpy as np

from planner.architecture import Architecture
from planner.layout import Layout, Quantity
from planner.memory.dtypes import weight_bytes
from planner.memory.logits import logits_of
from planner.memory.parts import Parts, joined
from planner.memory.reduction import Reduction, reduction_of
from planner.memory.sharded import Sharded, layer_parameters
from planner.memory.specs import Kernels
from planner.memory.stack import Stack, stack_of
from planner.memory.trained import Trained
from planner.workload import Workload


@dataclass(frozen=True, slots=True)
class Language:
    """Components by phase, above the static bytes."""

    phases: dict[str, Parts]
    largest: Quantity
    """The largest tensor that comes and goes."""


@dataclass(frozen=True, slots=True)
class _Gradients:
    """Bytes of gradients of the language model's own weights."""

    head: float
    tied: float
    """A tied head's gradient waits for the embedding's."""
    layers: float
    embedding: float
    fresh: Quantity
    """1 where gradients stay as the backward makes them, else 0."""


@dataclass(frozen=True, slots=True)
class _Scene:
    """What the phases have in common."""

    architecture: Architecture
    trained: Trained
    sharded: Sharded
    stack: Stack
    gradients: _Gradients

    @property
    def is_trained(self) -> bool:
        """Whether any gradient is made in the language model, and goes into a bucket."""
        counts = self.trained.counts
        return bool(counts.adapters or counts.language_model or counts.head or counts.embeddings)

    def after(self, done: int) -> Parts:
        """What the sharding holds when the backward is through the head and some layers."""
        held = self.sharded.backward if self.is_trained else self.sharded.loss
        if self.sharded.gathering is None:
            return held
        gone = self.architecture.head + done * layer_parameters(self.architecture)
        return {**held, "gathered": self.sharded.gathering.after(gone)}


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
    stack = stack_of(architecture, workload, layout.micro_batch, length, kernels)
    logits = logits_of(architecture, workload, layout, length, kernels)
    gradients = _gradients(architecture, workload, layout, trained, sharded)
    scene = _Scene(architecture, trained, sharded, stack, gradients)
    kept: Parts = {"activations": stack.kept()}
    phases = {
        "forward": joined({"activations": stack.forward()}, sharded.forward),
        "loss": joined(kept, {"logits": logits.forward}, sharded.loss or sharded.forward),
        "loss backward": joined(kept, {"logits": logits.backward}, sharded.loss),
        **_backward(scene),
        **_reductions(scene),
        **_embedding(scene, in_place=kernels == "cuda"),
    }
    return Language(phases, logits.largest)


def _backward(scene: _Scene) -> dict[str, Parts]:
    """From the last layer to the first."""
    stack, gradients = scene.stack, scene.gradients
    fresh = gradients.fresh
    layers = scene.architecture.language_model.layers
    head = gradients.head * fresh + gradients.tied
    upper = gradients.layers * (1.0 - 1.0 / max(1, layers)) * fresh
    held = scene.sharded.backward if scene.is_trained else scene.sharded.loss
    phases = {
        "backward": joined({"activations": stack.backward(fresh), "gradients": head}, held),
        "backward end": joined(
            {"activations": stack.backward_end(fresh), "gradients": head + upper},
            scene.after(layers - 1),
        ),
    }
    if not (scene.trained.counts.head or scene.trained.counts.language_model):
        phases["backward start"] = joined({"activations": stack.opening()}, scene.sharded.loss)
    return phases


def _embedding(scene: _Scene, *, in_place: bool) -> dict[str, Parts]:
    """The embedding's gradient, and a tied head's that it is added to."""
    gradients = scene.gradients
    if not gradients.embedding:
        return {}
    above = (gradients.head + gradients.layers) * gradients.fresh
    tied = gradients.tied * (1.0 if in_place else 2.0)
    held = scene.after(scene.architecture.language_model.layers)
    made: Parts = {"gradients": gradients.embedding + tied + above}
    return {"embedding": joined({"activations": scene.stack.start}, made, held)}


def _reductions(scene: _Scene) -> dict[str, Parts]:
    """Full buckets on the way down, and the last one."""
    if not scene.sharded.bucket:
        return {}
    width = scene.trained.width
    reduction = _reduction(scene)
    phases = {"reduce": _last_reduction(reduction, scene)}
    for number, moment in enumerate(reduction.moments):
        parts: Parts = {
            "activations": scene.stack.at(moment),
            "gradients": scene.gradients.tied,
            "reduced": moment.elements * width,
        }
        phases[f"reduce {number + 1}"] = joined(parts, scene.after(moment.done))
    return phases


def _reduction(scene: _Scene) -> Reduction:
    """Follows the bucket through the backward of the language model."""
    counts = scene.trained.counts
    rest = counts.projector + counts.towers + counts.tower_adapters
    layers = tuple((count, recorded.hooks) for count, recorded in reversed(scene.stack.layers))
    bucket = int(scene.sharded.bucket)
    return reduction_of(bucket, counts.head, layers, counts.embeddings, rest)


def _last_reduction(reduction: Reduction, scene: _Scene) -> Parts:
    """The copy that is reduced is gone before this rank's part of it is laid aside."""
    last = scene.sharded.last
    flat = reduction.pending * scene.trained.width
    if reduction.alone:
        return joined({"reduced": flat}, last)
    part = last.get("gradients", 0.0)
    return {**last, "gradients": part, "reduced": np.maximum(flat - part, 0.0)}


def _gradients(
    architecture: Architecture,
    workload: Workload,
    layout: Layout,
    trained: Trained,
    sharded: Sharded,
) -> _Gradients:
    width = float(weight_bytes(workload))
    counts = trained.counts
    matrix = architecture.vocab * architecture.language_model.hidden * width
    once = np.where(layout.grad_accum > 1, 0.0, 1.0)
    return _Gradients(
        head=counts.head * width,
        tied=matrix if counts.embeddings and architecture.tied else 0.0,
        layers=counts.language_model * width + counts.adapters * float(trained.adapter_width),
        embedding=matrix if counts.embeddings else 0.0,
        fresh=once if sharded.keeps_gradients else 0.0 * once,
    )
