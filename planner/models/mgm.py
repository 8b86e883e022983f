"""Mini-Gemini (MGM): a language model, CLIP and ConvNeXt towers, and patch info mining.

The config is our own form, with the dimensions of ``conf/model/mgm_2b.yaml``:
``{"model_type": "mgm", "text": {...}, "vision": {...}, "aux": {...}}``. ``text`` and ``vision``
may instead be sections of a ``config.json``, known by their ``model_type``. A released
``config.json`` (Llama's or Gemma's keys and ``mm_*`` beside them) is brought into that form.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from planner.architecture import Architecture, Linear, Tower
from planner.errors import PlannerError
from planner.models.assemble import with_towers
from planner.models.convnext import convnext_tower
from planner.models.encoders import vision_tower
from planner.models.fields import Fields, defaults_of
from planner.models.llava import CLIP_L_336
from planner.models.texts import language_model

_TEXT = {
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "intermediate": "intermediate_size",
    "vocab": "vocab_size",
    "max_positions": "max_position_embeddings",
}
_VISION = {
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "intermediate": "intermediate_size",
    "picture_px": "image_size",
    "patch_px": "patch_size",
}
_CONVNEXT_L = {"widths": [192, 384, 768, 1536], "depths": [3, 3, 27, 3]}
_STRIDE = 32


def mgm(fields: Fields, name: str) -> Architecture:
    """Reads an MGM model (Li et al. 2024, "Mini-Gemini", section 3; names of its checkpoints).

    ``vlm_uni_*`` are a norm and a linear layer each, for the query (CLIP's width) and for key
    and value (all ConvNeXt widths together). HD variants say ``"tiles": 5`` (four crops and the
    whole picture): CLIP's positions and the tokens of one picture are five times as many.

    Raises:
        PlannerError: a dimension is missing or impossible.
    """
    if not fields.has("text") and fields.has("mm_vision_tower"):
        fields = _from_release(fields)
    text = language_model(_section(fields, "text", _TEXT, "gemma"))
    clip = vision_tower(_section(fields, "vision", _VISION, "clip_vision_model"))
    aux, channels = _aux(fields)
    width = text.tower.hidden
    tiles = fields.size_or("tiles", 1)
    return with_towers(
        name,
        "mgm",
        text,
        (replace(clip, tokens=clip.tokens * tiles), aux),
        (
            Linear("mm_projector.0", clip.hidden, width, bias=True),
            Linear("mm_projector.2", width, width, bias=True),
            Linear("vlm_uni_query_projector.1", clip.hidden, clip.hidden, bias=True),
            Linear("vlm_uni_aux_projector.1", channels, clip.hidden, bias=True),
            Linear("vlm_uni_val_projector.1", channels, clip.hidden, bias=True),
        ),
        (clip.tokens - 1) * tiles,
        projector_other=2 * clip.hidden + 4 * channels,
        projector_norms=(clip.hidden, channels, channels),
    )


def _from_release(fields: Fields) -> Fields:
    """Our form of a released config; its towers are always CLIP-L/14-336 and ConvNeXt-L.

    The language model is known by ``model_type`` or by the class: early releases say
    ``mini_gemini`` for all. HD ones have a grid of crops, and the whole picture beside it.
    """
    named = f"{fields.model_type} {fields.get('architectures')}".lower()
    text = next((known for known in ("gemma", "mixtral", "mistral") if known in named), "llama")
    grid = fields.size_or("image_grid", 1)
    content = {
        "text": {**fields.raw, "model_type": text},
        "vision": CLIP_L_336,
        "aux": {**_CONVNEXT_L, "picture_px": fields.size_or("image_size_aux", 768)},
        "tiles": grid**2 + (1 if grid > 1 and fields.flag("image_global") else 0),
    }
    return Fields(content, "mgm")


def _aux(fields: Fields) -> tuple[Tower, int]:
    aux = Fields(fields.section("aux"), "mgm", path="aux")
    widths, depths, picture = aux.sizes("widths"), aux.sizes("depths"), aux.size("picture_px")
    if len(widths) != len(depths):
        raise PlannerError(f"aux.depths must be {len(widths)} sizes, as aux.widths are")
    if picture % _STRIDE:
        raise PlannerError(f"aux.picture_px ({picture}) must be a multiple of {_STRIDE}")
    return convnext_tower(widths, depths, picture, name="vision_tower_aux"), sum(widths)


def _section(fields: Fields, key: str, names: Mapping[str, str], fallback: str) -> Fields:
    """The section in Hugging Face's names, whichever of the two it is written in."""
    raw: Mapping[str, Any] = fields.section(key)
    if not raw:
        raise PlannerError(f"{fields.where(key)} is missing: an mgm config has text, vision, aux")
    model_type = raw.get("model_type") or fallback
    if not isinstance(model_type, str):
        raise PlannerError(f"{fields.where(key)}.model_type must be text, not {model_type!r}")
    renamed = {names.get(name, name): value for name, value in raw.items()}
    if "model_type" in raw:
        return Fields(renamed, model_type, defaults_of(model_type), key)
    required = {name: None for name in names.values() if name != "head_dim"}
    return Fields({**required, **renamed}, model_type, defaults_of(model_type), key)
