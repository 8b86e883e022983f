"""Puts a language model, towers and a projector together."""

from planner.architecture import Architecture, Linear, Tower
from planner.models.recipe import Text


def text_only(name: str, text: Text) -> Architecture:
    """A language model by itself."""
    return Architecture(
        name=name,
        family=text.tower.family,
        language_model=text.tower,
        vocab=text.vocab,
        tied=text.tied,
        head_bias=text.head_bias,
        max_positions=text.max_positions,
    )


def with_towers(
    name: str,
    family: str,
    text: Text,
    towers: tuple[Tower, ...],
    projector: tuple[Linear, ...],
    image_tokens: int,
    *,
    tied: bool | None = None,
    projector_other: int = 0,
    projector_norms: tuple[int, ...] = (),
) -> Architecture:
    """A multimodal model.

    Args:
        name: of the model.
        family: its ``model_type``.
        text: the language model.
        towers: the first one sees the picture.
        projector: linears between towers and language model.
        image_tokens: tokens that one picture (or tile) takes.
        tied: whether the head is tied, where the outer config says so.
        projector_other: parameters of the projector beside its linears.
        projector_norms: widths of its norms.
    """
    return Architecture(
        name=name,
        family=family,
        language_model=text.tower,
        vocab=text.vocab,
        tied=text.tied if tied is None else tied,
        head_bias=text.head_bias,
        towers=towers,
        projector=projector,
        projector_other=projector_other,
        projector_norms=projector_norms,
        image_tokens=image_tokens,
        patches_per_token=towers[0].tokens / image_tokens,
        max_positions=text.max_positions,
    )
