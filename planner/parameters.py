"""Parameter counts of an MGM model by component, from its dimensions alone."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MgmParameters:
    """Numbers of parameters, by component."""

    language_model: int
    vision_tower: int
    vision_tower_aux: int
    projector: int
    mining: int

    @property
    def total(self) -> int:
        """All parameters; the tied output embedding counts once."""
        return self.language_model + self.towers + self.trained_projector

    @property
    def towers(self) -> int:
        """Both vision towers, which are never trained."""
        return self.vision_tower + self.vision_tower_aux

    @property
    def trained_projector(self) -> int:
        """The projector and patch info mining."""
        return self.projector + self.mining


def gemma_parameters(
    hidden: int,
    layers: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    intermediate: int,
    vocab: int,
) -> int:
    """Parameters of a Gemma language model with tied embeddings (transformers' modeling_gemma).

    A layer has q and o of ``hidden x heads*head_dim``, k and v of ``hidden x kv_heads*head_dim``,
    three MLP matrices of ``hidden x intermediate`` and two norms; a last norm ends the model.

    >>> gemma_parameters(2048, 18, 8, 1, 256, 16384, 256000)
    2506172416
    """
    attention = 2 * hidden * heads * head_dim + 2 * hidden * kv_heads * head_dim
    layer = attention + 3 * hidden * intermediate + 2 * hidden
    return vocab * hidden + layers * layer + hidden


def clip_vision_parameters(
    hidden: int, layers: int, intermediate: int, picture_px: int, patch_px: int
) -> int:
    """Parameters of a CLIP vision transformer (transformers' modeling_clip).

    >>> clip_vision_parameters(1024, 24, 4096, 336, 14)
    303507456
    """
    positions = (picture_px // patch_px) ** 2 + 1
    embeddings = hidden + 3 * patch_px**2 * hidden + positions * hidden
    attention = 4 * (hidden * hidden + hidden)
    mlp = 2 * hidden * intermediate + intermediate + hidden
    layer = attention + mlp + 4 * hidden
    return embeddings + layers * layer + 4 * hidden


def convnext_parameters(widths: Sequence[int], depths: Sequence[int]) -> int:
    """Parameters of a ConvNeXt trunk: stem and four stages, without head (timm's convnext).

    A block has a 7x7 depthwise convolution, a norm, an MLP of factor 4 and a layer scale.

    >>> convnext_parameters((192, 384, 768, 1536), (3, 3, 27, 3))
    196227264
    """
    stem = 3 * 16 * widths[0] + widths[0] + 2 * widths[0]
    total = stem
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        if stage > 0:
            before = widths[stage - 1]
            total += 2 * before + 4 * before * width + width
        total += depth * (49 * width + width + 2 * width + 8 * width * width + 5 * width + width)
    return total


def mining_parameters(vision_hidden: int, aux_channels: int) -> int:
    """Parameters of patch info mining: a norm and a linear layer each for query, key and value.

    >>> mining_parameters(1024, 2880)
    6963456
    """
    query = 2 * vision_hidden + vision_hidden * vision_hidden + vision_hidden
    key = 2 * aux_channels + aux_channels * vision_hidden + vision_hidden
    return query + 2 * key


def projector_parameters(vision_hidden: int, text_hidden: int) -> int:
    """Parameters of the two-layer projector.

    >>> projector_parameters(1024, 2048)
    6295552
    """
    return vision_hidden * text_hidden + text_hidden + text_hidden * text_hidden + text_hidden


def lora_parameters(
    rank: int, hidden: int, layers: int, heads: int, kv_heads: int, head_dim: int, intermediate: int
) -> int:
    """Parameters of LoRA on all seven projections of every layer: ``rank x (in + out)`` each.

    >>> lora_parameters(16, 2048, 18, 8, 1, 256, 16384)
    19611648
    """
    query, key = heads * head_dim, kv_heads * head_dim
    attention = 2 * (hidden + query) + 2 * (hidden + key)
    return layers * rank * (attention + 3 * (hidden + intermediate))
