"""Models whose learned queries look at the picture: BLIP-2's Q-Former, MiniCPM-V's resampler."""

from dataclasses import replace

from planner.architecture import Architecture, LayerGroup, Linear, Tower
from planner.errors import PlannerError
from planner.models.assemble import with_towers
from planner.models.encoders import vision_tower
from planner.models.fields import Fields, require_multiple
from planner.models.linears import attention_linears
from planner.models.texts import language_model

_QFORMER_ATTENTION = ("query", "key", "value", "dense")
_SLICE_PX = 448
_MINICPM_TEXTS = {"2.5": "llama", "2.6": "qwen2", "4.0": "llama", "4": "llama", "4.5": "qwen3"}
"""MiniCPM-V's ``version`` to the language model inside."""


def resampler(
    queries: int, inputs: int, width: int, *, learned_positions: bool = False
) -> tuple[tuple[Linear, ...], int]:
    """One cross-attention with learned queries, its linears and its other parameters.

    ``kv_proj`` without bias, torch's MultiheadAttention, and norms for queries, inputs and
    output (resampler.py beside the weights of MiniCPM-V; Qwen-VL's visual.py is alike, with
    stored positions and the third norm outside).

    >>> linears, other = resampler(96, 1152, 4096)
    >>> sum(linear.parameters for linear in linears) + other
    72261632
    """
    linears = (
        Linear("kv_proj", inputs, width),
        *attention_linears(
            ("in_proj", "out_proj"), width, width, width, qkv_bias=True, out_bias=True
        ),
    )
    vectors = queries * (2 if learned_positions else 1)
    return linears, vectors * width + 3 * 2 * width


def minicpm_v(fields: Fields, name: str) -> Architecture:
    """Reads MiniCPM-V 2.5 and later (modeling_minicpmv.py beside its weights).

    The language model's keys stand beside ``vision_config``; ``tokens`` are the patches of one
    slice.

    Raises:
        PlannerError: the version is unknown, or a dimension missing or impossible.
    """
    version = str(fields.get("version") or "2.5")
    if version not in _MINICPM_TEXTS:
        known = ", ".join(_MINICPM_TEXTS)
        raise PlannerError(f"version {version!r} of MiniCPM-V is not known; known: {known}")
    text = language_model(fields.retyped(_MINICPM_TEXTS[version]))
    vision = fields.nested("vision_config", "siglip_vision_model", fixed=True)
    tower = vision_tower(vision.with_defaults({"vision_use_head": False}))
    patches = (_SLICE_PX // vision.size("patch_size")) ** 2
    tower = replace(tower, tokens=max(1, patches))
    queries, width = fields.size_or("query_num", 64), text.tower.hidden
    linears, other = resampler(queries, tower.hidden, width)
    return with_towers(
        name,
        "minicpmv",
        text,
        (tower,),
        (*linears, Linear("proj", width, width)),
        queries,
        projector_other=other,
        projector_norms=(width, width, width),
    )


def blip2(fields: Fields, name: str) -> Architecture:
    """Reads BLIP-2 with a decoder as language model (modeling_blip_2).

    Raises:
        PlannerError: a dimension is missing or impossible.
    """
    text = language_model(fields.nested("text_config", "opt"))
    vision = fields.nested("vision_config", "blip_2_vision_model", fixed=True)
    tower = vision_tower(vision)
    queries = fields.size("num_query_tokens")
    section = fields.nested("qformer_config", "blip_2_qformer", fixed=True)
    qformer = _qformer(section, queries, tower.hidden)
    return with_towers(
        name,
        fields.model_type,
        text,
        (tower, qformer),
        (Linear("language_projection", qformer.hidden, text.tower.hidden, bias=True),),
        queries,
    )


def _qformer(fields: Fields, queries: int, seen: int) -> Tower:
    """A BERT whose every n-th layer also attends to the picture; queries are its embeddings."""
    hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    layers = fields.size("num_hidden_layers", most=10_000)
    own = _qformer_attention(hidden, hidden)
    inner = fields.size("intermediate_size")
    mlp = (
        Linear("intermediate_query.dense", hidden, inner, bias=True),
        Linear("output_query.dense", inner, hidden, bias=True),
    )
    halves = 2 if fields.flag("use_qformer_text_input") else 1
    crossing = -(-layers // fields.size_or("cross_attention_frequency", 2))
    norms = 2 * hidden * (1 + halves)
    groups = (
        LayerGroup(
            crossing, (*own, *_qformer_attention(seen, hidden), *mlp * halves), norms + 2 * hidden
        ),
        LayerGroup(layers - crossing, (*own, *mlp * halves), norms),
    )
    return Tower(
        name="qformer",
        kind="qformer",
        family=fields.model_type,
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=require_multiple(
            fields.where("hidden_size"), hidden, "num_attention_heads", heads
        ),
        intermediate=inner,
        gated=False,
        activation=fields.text("hidden_act", "gelu"),
        norm="layer",
        norms_per_layer=3,
        qk_norm=False,
        groups=tuple(group for group in groups if group.count),
        embeddings=queries * hidden + 2 * hidden,
        final=0,
        tokens=queries,
    )


def _qformer_attention(inputs: int, hidden: int) -> tuple[Linear, ...]:
    query, key, value, out = _QFORMER_ATTENTION
    return (
        Linear(query, hidden, hidden, bias=True),
        Linear(key, inputs, hidden, bias=True),
        Linear(value, inputs, hidden, bias=True),
        Linear(out, hidden, hidden, bias=True),
    )
