"""The head of a workload: which loss, on how many tokens, and how high it climbs."""

from dataclasses import dataclass

import numpy as np

from planner.architecture import Architecture
from planner.layout import Layout, Quantity
from planner.memory.dtypes import stream_bytes, weight_bytes
from planner.memory.head import CHUNKS, HeadSpec, recorded_head
from planner.memory.ops import Matrix
from planner.memory.recorded import highest
from planner.memory.specs import Kernels, is_softcapped
from planner.memory.vision import images_of
from planner.workload import Workload

_UPCAST = ("fp32", "fp32_shifted")
"""What MGM's own loss stands for: it takes labelled positions alone, in fp32."""


@dataclass(frozen=True, slots=True)
class Logits:
    """Bytes above the activations."""

    forward: Quantity
    backward: Quantity
    largest: Quantity
    """The largest single tensor."""


def logits_of(
    architecture: Architecture,
    workload: Workload,
    layout: Layout,
    length: Quantity,
    kernels: Kernels,
) -> Logits:
    """Evaluates the recorded head."""
    logit = 2.0 if workload.loss == "no_upcast" else 4.0
    seen = _seen(architecture, workload, layout, layout.micro_batch * length + 0.0)
    none = 0.0 * seen
    one, many = (
        recorded_head(_spec(architecture, workload, kernels, many=many)) for many in (False, True)
    )
    several = layout.micro_batch > 1
    return Logits(
        np.where(several, highest(many.forward, seen, none), highest(one.forward, seen, none)),
        np.where(several, highest(many.backward, seen, none), highest(one.backward, seen, none)),
        logit * architecture.vocab * seen,
    )


def _seen(
    architecture: Architecture, workload: Workload, layout: Layout, tokens: Quantity
) -> Quantity:
    """Tokens that are logits at one time: all, those of a chunk, or those with a label (MGM)."""
    computed = tokens * workload.logit_share
    if workload.loss == "chunked":
        return computed / CHUNKS
    if architecture.family == "mgm" and workload.loss in _UPCAST:
        image = workload.image_tokens or architecture.image_tokens
        pictures = images_of(architecture, workload, layout) * image
        return np.minimum(computed, np.maximum(tokens - layout.micro_batch - pictures, 1.0))
    return computed


def _spec(
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
        width=stream_bytes(workload),
        norm=tower.norm,
        wide_scale=tower.family.startswith("gemma"),
        norm_trained=full,
        matrix=Matrix(
            tower.hidden,
            architecture.vocab,
            gradient_width=weight_bytes(workload) if trained else 0,
        ),
        loss="labelled" if architecture.family == "mgm" and loss in _UPCAST else loss,
        softcap=is_softcapped(tower),
        in_place=kernels == "cuda",
        many=many and loss in ("no_upcast", "fp32_shifted"),
    )
