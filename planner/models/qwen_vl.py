"""Qwen-VL, Qwen2-VL and Qwen2.5-VL."""

from dataclasses import replace

from planner.architecture import Architecture, Linear, Tower
from planner.models.assemble import with_towers
from planner.models.encoders import vision_tower
from planner.models.fields import Fields
from planner.models.recipe import Text
from planner.models.resamplers import resampler
from planner.models.texts import language_model

_BASE_POSITIONS = 256
"""Qwen-VL learned positions at 224 pixels, 16 x 16, and stretches them to 448."""
_QUERIES = 256


def qwen2_vl(fields: Fields, name: str) -> Architecture:
    """Reads Qwen2-VL or Qwen2.5-VL (modeling_qwen2_vl, modeling_qwen2_5_vl).

    Pictures keep their size: ``tokens`` and ``image_tokens`` are those of a picture of 1280
    tokens, the limit that the README recommends. Published configs are flat: the language
    model's keys stand beside ``vision_config``.

    Raises:
        PlannerError: a dimension is missing or impossible.
    """
    family = fields.model_type
    if fields.has("text_config"):
        text = language_model(fields.nested("text_config", f"{family}_text", fixed=True))
    else:
        text = language_model(fields.retyped(f"{family}_text"))
    vision = fields.nested("vision_config", f"{family}_vision", fixed=True)
    tower = vision_tower(vision)
    merged = vision.size_or("spatial_merge_size", 2) ** 2
    norm = tower.hidden if tower.norm == "rms" else 2 * tower.hidden
    return with_towers(
        name,
        family,
        text,
        (tower,),
        _merger(tower, text, vision, merged),
        tower.tokens // merged,
        tied=fields.flag("tie_word_embeddings"),
        projector_other=norm,
        projector_norms=(tower.hidden,),
    )


def _merger(tower: Tower, text: Text, vision: Fields, merged: int) -> tuple[Linear, Linear]:
    """Two layers over the patches that become one token."""
    width = merged * tower.hidden
    key = "out_hidden_size" if tower.norm == "rms" else "hidden_size"
    out = vision.size_or(key, text.tower.hidden)
    return (
        Linear("mlp.0", width, width, bias=True),
        Linear("mlp.2", width, out, bias=True),
    )


def qwen_vl(fields: Fields, name: str) -> Architecture:
    """Reads a Qwen v1 model, with a ``visual`` section Qwen-VL (visual.py beside its weights).

    A resampler of 256 queries stands between the tower and a last matrix.

    Raises:
        PlannerError: a dimension is missing or impossible.
    """
    text = language_model(fields)
    visual = fields.nested("visual", "qwen_visual", fixed=True)
    tower = vision_tower(visual)
    tower = replace(tower, embeddings=tower.embeddings + _BASE_POSITIONS * tower.hidden)
    width = visual.size_or("output_dim", text.tower.hidden)
    queries = visual.size_or("n_queries", _QUERIES)
    linears, other = resampler(queries, tower.hidden, width, learned_positions=True)
    return with_towers(
        name,
        "qwen_vl",
        text,
        (tower,),
        (*linears, Linear("proj", width, width)),
        queries,
        projector_other=other,
        projector_norms=(width, width, width),
    )
