"""The parts of a model as the step time sees them: layers alike, their tokens and their passes."""

from dataclasses import dataclass

from planner.architecture import Architecture, LayerGroup, Linear, Tower
from planner.layout import Layout, Quantity
from planner.lengths import longest_of
from planner.time.elementwise import element_bytes, kernel_count, loss_bytes
from planner.time.mask import (
    Passes,
    head_passes,
    language_passes,
    projector_passes,
    ranks_of,
    tower_passes,
)
from planner.workload import Workload


@dataclass(frozen=True, slots=True)
class Part:
    """``layers`` layers alike; tokens and pairs are those of one micro step on one card."""

    name: str
    layers: int
    linears: tuple[Linear, ...]
    ranks: tuple[int, ...]
    passes: Passes
    tokens: Quantity
    length: Quantity
    """Of the sequences that attend."""
    score_flops: Quantity
    """Of attention, forward, a layer."""
    score_passes: float
    element_bytes: Quantity
    """Moved by everything that is no matrix product, forward, a layer."""
    element_passes: float
    kernels: float
    """Started in the forward pass of a layer."""

    @property
    def launches(self) -> float:
        """Kernels of a micro step.

        A backward counts as one forward: it starts twice as many, from C++, in half the time each.
        """
        passes = 1.0 + self.passes.recompute + float(self.passes.backward)
        return self.layers * self.kernels * passes


def parts_of(architecture: Architecture, workload: Workload, layout: Layout) -> tuple[Part, ...]:
    """Everything that one micro step computes on one card."""
    longest = longest_of(workload.seq_len, layout.micro_batch)
    tokens = layout.micro_batch * longest.mean
    squares = layout.micro_batch * longest.mean_square
    parts = [*_language(architecture, workload, tokens, squares)]
    images = layout.micro_batch * images_of(architecture, workload)
    for tower in architecture.towers:
        parts += _tower(architecture, tower, workload, images)
    if architecture.projector:
        parts.append(_projector(architecture, workload, images))
    return tuple(parts)


def images_of(architecture: Architecture, workload: Workload) -> float:
    """Images a sample: one for a model with towers, unless the workload says."""
    if workload.images_per_sample is not None:
        return workload.images_per_sample
    return 1.0 if architecture.towers else 0.0


def _language(
    architecture: Architecture, workload: Workload, tokens: Quantity, squares: Quantity
) -> list[Part]:
    tower = architecture.language_model
    passes = language_passes(workload)
    pairs = squares
    if tower.window is not None:
        # Beyond the window every query sees as many keys as the window has.
        pairs = squares * min(1.0, tower.window / max(workload.seq_len.values))
    if workload.attention != "eager":
        pairs = pairs / 2
    parts = [
        _part(tower.name, tower, group, workload, passes, tokens, pairs, squares / tokens)
        for group in tower.groups
    ]
    return [*parts, _head(architecture, workload, tokens)]


def _head(architecture: Architecture, workload: Workload, tokens: Quantity) -> Part:
    hidden = architecture.language_model.hidden
    tokens = tokens * workload.logit_share
    return Part(
        name="head",
        layers=1,
        linears=(Linear("lm_head", hidden, architecture.vocab),),
        ranks=(0,),
        passes=head_passes(workload, tied=architecture.tied),
        tokens=tokens,
        length=1.0,
        score_flops=0.0,
        score_passes=0.0,
        element_bytes=tokens * (architecture.vocab * loss_bytes(workload)),
        element_passes=1.0,
        kernels=40.0,
    )


def _tower(
    architecture: Architecture, tower: Tower, workload: Workload, images: Quantity
) -> list[Part]:
    passes = tower_passes(workload)
    parts = []
    positions = _positions(architecture, tower, workload)
    for group in tower.groups:
        pairs = images * positions * min(positions, tower.window or positions)
        if tower.kind == "convnext":
            pairs = 0.0
        tokens = images * positions
        parts.append(_part(tower.name, tower, group, workload, passes, tokens, pairs, positions))
        if tower.kind == "convnext":
            # Every stage halves both sides of the map.
            positions /= 4
    return parts


def _positions(architecture: Architecture, tower: Tower, workload: Workload) -> float:
    """Positions of one image in a tower, scaled where the workload has other image tokens."""
    own = architecture.image_tokens
    asked = workload.image_tokens or own
    if tower.tokens:
        return float(tower.tokens) * (asked / own if own else 1.0)
    return asked * architecture.patches_per_token


def _projector(architecture: Architecture, workload: Workload, images: Quantity) -> Part:
    tokens = images * float(workload.image_tokens or architecture.image_tokens or 0)
    width = sum(linear.outputs for linear in architecture.projector)
    return Part(
        name="projector",
        layers=1,
        linears=architecture.projector,
        ranks=(0,) * len(architecture.projector),
        passes=projector_passes(workload),
        tokens=tokens,
        length=1.0,
        score_flops=0.0,
        score_passes=0.0,
        element_bytes=tokens * (4.0 * width),
        element_passes=3.0,
        kernels=10.0,
    )


def _part(
    name: str,
    tower: Tower,
    group: LayerGroup,
    workload: Workload,
    passes: Passes,
    tokens: Quantity,
    pairs: Quantity,
    length: Quantity,
) -> Part:
    vision = tower.kind != "decoder"
    ranks = ranks_of(group.linears, workload, tower=vision)
    # FlashAttention's backward computes the scores again: 2.5 times the forward, else twice.
    backward = 2.0 if workload.attention == "eager" else 2.5
    again = passes.recompute
    width = tower.heads * tower.head_dim
    return Part(
        name=name,
        layers=group.count,
        linears=group.linears,
        ranks=ranks,
        passes=passes,
        tokens=tokens,
        length=length,
        score_flops=4.0 * width * pairs,
        score_passes=1.0 + again + (backward if passes.backward else 0.0),
        element_bytes=element_bytes(tower, group, ranks, workload, tokens, pairs),
        element_passes=1.0 + again + (2.0 if passes.backward else 0.0),
        kernels=kernel_count(tower, group, ranks, workload),
    )
