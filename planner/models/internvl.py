"""InternVL: in transformers' form, and in that of InternVL's own repository."""

from planner.architecture import Architecture, Linear
from planner.errors import PlannerError
from planner.models.assemble import with_towers
from planner.models.encoders import vision_tower
from planner.models.fields import Fields
from planner.models.texts import language_model


def internvl(fields: Fields, name: str) -> Architecture:
    """Reads transformers' InternVL (modeling_internvl).

    Raises:
        PlannerError: a dimension is missing or impossible.
    """
    text = fields.nested("text_config", "qwen2")
    vision = fields.nested("vision_config", "internvl_vision", fixed=True)
    tied = fields.flag("tie_word_embeddings")
    return _internvl(fields, text, vision, name, tied=tied, names=("linear_1", "linear_2"))


def internvl_chat(fields: Fields, name: str) -> Architecture:
    """Reads a config of InternVL's own repository: ``llm_config`` and InternViT.

    Raises:
        PlannerError: a dimension is missing or impossible.
    """
    text = fields.nested("llm_config", "llama")
    vision = fields.nested("vision_config", "intern_vit_6b", fixed=True)
    return _internvl(fields, text, vision, name, tied=None, names=("mlp1.1", "mlp1.3"))


def _internvl(
    fields: Fields,
    text_fields: Fields,
    vision: Fields,
    name: str,
    *,
    tied: bool | None,
    names: tuple[str, str],
) -> Architecture:
    """A norm and two layers over the patches that become one token (pixel shuffle)."""
    text, tower = language_model(text_fields), vision_tower(vision)
    ratio = fields.number_or("downsample_ratio", 0.5)
    if ratio > 1:
        raise PlannerError(f"downsample_ratio must be at most 1, not {ratio:g}")
    merged = int(1 / ratio) ** 2
    wide, width = merged * tower.hidden, text.tower.hidden
    return with_towers(
        name,
        "internvl",
        text,
        (tower,),
        (Linear(names[0], wide, width, bias=True), Linear(names[1], width, width, bias=True)),
        max(1, (tower.tokens - 1) // merged),
        tied=tied,
        projector_other=2 * wide,
        projector_norms=(wide,),
    )
