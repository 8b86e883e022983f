"""ConvNeXt towers: four stages of depthwise convolutions, each half as wide a map."""

import itertools
from collections.abc import Sequence

from planner.architecture import LayerGroup, Linear, Tower

_EXPANSION = 4
_KERNEL = 7
_STEM = 4


def convnext_tower(
    widths: Sequence[int],
    depths: Sequence[int],
    picture_px: int,
    *,
    name: str = "vision_tower",
    names: tuple[str, str] = ("fc1", "fc2"),
    final: int = 0,
) -> Tower:
    """Stem and stages (timm's convnext.py; transformers' modeling_convnext has other names).

    A block has a 7x7 depthwise convolution, a norm, an MLP of factor 4 and a layer scale. What
    halves the map before a stage counts as embeddings, like the stem. ``tokens`` are positions
    of the first stage's map.

    >>> tower = convnext_tower((192, 384, 768, 1536), (3, 3, 27, 3), 768)
    >>> tower.parameters, tower.tokens
    (196227264, 36864)
    """
    groups = tuple(
        LayerGroup(depth, _block(width, names), width * (_KERNEL**2 + 4))
        for width, depth in zip(widths, depths, strict=True)
    )
    stem = 3 * _STEM**2 * widths[0] + 3 * widths[0]
    halving = sum(
        2 * before + 4 * before * width + width for before, width in itertools.pairwise(widths)
    )
    return Tower(
        name=name,
        kind="convnext",
        family="convnext",
        hidden=widths[-1],
        heads=1,
        kv_heads=1,
        head_dim=widths[-1],
        intermediate=_EXPANSION * widths[-1],
        gated=False,
        activation="gelu",
        norm="layer",
        norms_per_layer=1,
        qk_norm=False,
        groups=groups,
        embeddings=stem + halving,
        final=final,
        tokens=(picture_px // _STEM) ** 2,
    )


def _block(width: int, names: tuple[str, str]) -> tuple[Linear, Linear]:
    inner = _EXPANSION * width
    return Linear(names[0], width, inner, bias=True), Linear(names[1], inner, width, bias=True)
