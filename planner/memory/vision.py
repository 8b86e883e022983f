"""Vision towers and projectors: what they keep for the backward, and how high they climb."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from planner.architecture import Architecture, Tower
from planner.layout import Layout, Quantity
from planner.memory.dtypes import compute_bytes
from planner.memory.recorded import bytes_of, highest, recorded_layer
from planner.memory.specs import encoder_specs
from planner.workload import Workload


@dataclass(frozen=True, slots=True)
class Vision:
    """Bytes of all pictures of a micro batch."""

    store: Quantity
    """Kept from the towers' forward to their backward."""
    forward: Quantity
    """The highest that the towers' forward climbs, above the states."""
    backward: Quantity
    """The same of their backward, with the store."""


def images_of(architecture: Architecture, workload: Workload, layout: Layout) -> Quantity:
    """Pictures of one micro batch."""
    if not architecture.towers:
        return 0.0 * layout.micro_batch
    share = 1.0 if workload.images_per_sample is None else workload.images_per_sample
    return np.ceil(share * layout.micro_batch) if share else 0.0 * layout.micro_batch


def vision_of(architecture: Architecture, workload: Workload, layout: Layout) -> Vision:
    """Sums the towers one after the other, and the projector behind them."""
    images = images_of(architecture, workload, layout)
    store: Quantity = 0.0 * images
    forward: Quantity = 0.0 * images
    backward: Quantity = 0.0 * images
    for tower in architecture.towers:
        one = _tower(tower, workload, images)
        forward = np.maximum(forward, store + one.forward)
        backward = np.maximum(backward, store + one.backward)
        store = store + one.store
    projector = projector_bytes(architecture, workload)
    forward = np.maximum(forward, store + images * projector.forward)
    store = store + images * projector.kept
    backward = np.maximum(backward, store + images * projector.backward)
    return Vision(store, forward, np.maximum(backward, store))


def _tower(tower: Tower, workload: Workload, images: Quantity) -> Vision:
    width = compute_bytes(workload)
    if tower.kind == "convnext":
        peak = convnext_bytes(tower, width)[1]
        return Vision(0.0 * images, images * peak, 0.0 * images)
    tokens = images * float(max(tower.tokens, 1))
    pairs = tokens * float(tower.window or max(tower.tokens, 1))
    tokens, pairs = tokens + 0.0, pairs + 0.0
    frozen = workload.towers == "frozen"
    checkpointed = frozen or workload.grad_ckpt.towers
    heights = recorded_layer(encoder_specs(tower, workload)[0][1], checkpointed)
    layers = float(tower.layers)
    out = tokens * tower.hidden * width
    if frozen:
        return Vision(out, out + highest(heights.forward, tokens, pairs), 0.0 * tokens)
    saved = bytes_of(heights.saved, tokens, pairs)
    store = out + layers * saved
    inner = (layers - 1.0) * saved + out
    return Vision(
        store,
        inner + highest(heights.forward, tokens, pairs),
        inner + highest(heights.backward, tokens, pairs),
    )


@lru_cache(maxsize=256)
def convnext_bytes(tower: Tower, width: int) -> tuple[float, float]:
    """Features of one picture, and the highest that a frozen ConvNeXt climbs for them.

    A block holds its input, the convolved and normed rows and two tensors of four times the
    width. MGM then brings all four stages to the first one's size, in fp32, and stacks them.
    """
    first = float(tower.tokens)
    widths = [group.linears[0].inputs for group in tower.groups]
    maps = [first / 4**stage * wide for stage, wide in enumerate(widths)]
    block = max(10.0 * size for size in maps) * width
    features = first * sum(widths) * width
    small = sum(maps) * width
    done = first * sum(widths[1:-1]) * width
    last = first * widths[-1]
    upsampled = small + done + last * (4.0 + width)
    stacked = small + first * sum(widths[1:]) * width + features
    return features, max(block, upsampled, stacked)


@dataclass(frozen=True, slots=True)
class Projector:
    """Bytes for one picture."""

    kept: float = 0.0
    forward: float = 0.0
    """With what is kept."""
    backward: float = 0.0
    """Above what is kept."""


def projector_bytes(architecture: Architecture, workload: Workload) -> Projector:
    """What the projector keeps for one picture, and how high it climbs.

    Trained linears keep their inputs, activations and norms theirs. MGM's mining works at every
    position of the high-resolution map: its squares, two normed copies, keys and values.
    """
    width = compute_bytes(workload)
    method = workload.method
    trained = method.kind == "projector" or method.train_projector
    tokens = float(architecture.image_tokens)
    plain = [x for x in architecture.projector if not x.name.startswith(_MINED)]
    kept = sum(tokens * (x.inputs + x.outputs) * width for x in plain)
    climb = max((tokens * (x.inputs + x.outputs) * width for x in plain), default=0.0)
    if not trained and workload.towers == "frozen":
        return Projector(0.0, kept, 0.0)
    aux = next((tower for tower in architecture.towers if tower.kind == "convnext"), None)
    if aux is None:
        return Projector(kept, kept, climb)
    wide = float(aux.tokens) * sum(group.linears[0].inputs for group in aux.groups) * width
    narrow = max(float(aux.tokens) * x.outputs * width for x in architecture.projector[-2:])
    # The map itself, its squares, two normed copies; values, keys and scaled keys.
    return Projector(
        kept=kept + 3.0 * wide + 2.0 * narrow,
        forward=kept + 4.0 * wide + 3.0 * narrow,
        backward=wide,
    )


_MINED = ("vlm_uni_aux", "vlm_uni_val")
