"""Families of decoders that follow GPT-2 and GPT-3: layer norm, a plain MLP, mostly biases."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from planner.errors import PlannerError
from planner.models.fields import Fields
from planner.models.recipe import Dims, Recipe

_FUSED = ("query_key_value", "dense")
_FOUR_H = ("dense_h_to_4h", "dense_4h_to_h")
_GPT2_KEYS = {
    "hidden": "n_embd",
    "layers": "n_layer",
    "heads": "n_head",
    "intermediate": "n_inner",
    "max_positions": "n_positions",
    "activation": "activation_function",
}


def _falcon(fields: Fields) -> Mapping[str, Any]:
    """Keys by group of heads, one, or one a head; one norm or two before parallel halves."""
    heads = fields.size("num_attention_heads")
    new = fields.flag("new_decoder_architecture")
    if new:
        kv_heads = fields.size_or("num_kv_heads", heads)
    else:
        kv_heads = 1 if fields.flag("multi_query") else heads
    parallel_norms = fields.size_or("num_ln_in_parallel_attn", 2 if new else 1)
    return {
        "kv_heads": kv_heads,
        "norms": parallel_norms if fields.flag("parallel_attn") else 2,
    }


def _mpt(fields: Fields) -> Mapping[str, Any]:
    ratio = fields.number_or("expansion_ratio", 4)
    inner = int(ratio * fields.size("d_model"))
    if inner < 1:
        raise PlannerError(f"expansion_ratio ({ratio:g}) leaves no MLP")
    groups = fields.section("attn_config").get("kv_n_heads")
    return {"intermediate": inner, "kv_heads": groups if isinstance(groups, int) else None}


def _mpt_positions(fields: Fields, dims: Dims) -> int:
    """ALiBi is all that transformers has; llm-foundry learns positions where ALiBi is off."""
    alibi = fields.section("attn_config").get("alibi", True)
    learned = not alibi and fields.flag("learned_pos_emb", fallback=True)
    return dims.max_positions * dims.hidden if learned else 0


def _opt_narrow_words(fields: Fields, dims: Dims) -> int:
    """OPT-350m embeds words in half its width."""
    width = fields.size_or("word_embed_proj_dim", dims.hidden)
    if width != dims.hidden and not fields.flag("tie_word_embeddings"):
        raise PlannerError("word_embed_proj_dim beside an untied head is not supported")
    return dims.vocab * (width - dims.hidden)


def _opt_last(fields: Fields, dims: Dims) -> int:
    """A last norm where norms come first, and two projections where words are narrower."""
    width = fields.size_or("word_embed_proj_dim", dims.hidden)
    affine = fields.flag("layer_norm_elementwise_affine", fallback=True)
    last = affine and fields.flag("do_layer_norm_before", fallback=True)
    projections = 0 if width == dims.hidden else 2 * width * dims.hidden
    return projections + (2 * dims.hidden if last else 0)


def _bloom_embedding_norm(_: Fields, dims: Dims) -> int:
    return 2 * dims.hidden


OLDER_DECODERS: Mapping[str, Recipe] = MappingProxyType(
    {
        "gpt2": Recipe(
            family="gpt2",
            keys=_GPT2_KEYS,
            attention=("c_attn", "c_proj"),
            mlp=("c_fc", "c_proj"),
            gated=False,
            qkv_bias=True,
            out_bias=True,
            mlp_bias=True,
            norm="layer",
            activation="gelu_new",
            positions=True,
        ),
        "gptj": Recipe(
            family="gptj",
            keys=_GPT2_KEYS,
            attention=("q_proj", "k_proj", "v_proj", "out_proj"),
            mlp=("fc_in", "fc_out"),
            gated=False,
            mlp_bias=True,
            norm="layer",
            norms=1,
            activation="gelu_new",
            head_bias=True,
        ),
        "gpt_neox": Recipe(
            family="gpt_neox",
            attention=_FUSED,
            mlp=_FOUR_H,
            gated=False,
            qkv_bias="attention_bias",
            out_bias="attention_bias",
            mlp_bias=True,
            norm="layer",
            activation="gelu",
        ),
        "phi": Recipe(
            family="phi",
            attention=("q_proj", "k_proj", "v_proj", "dense"),
            mlp=("fc1", "fc2"),
            gated=False,
            qkv_bias=True,
            out_bias=True,
            mlp_bias=True,
            norm="layer",
            norms=1,
            qk_norm="qk_layernorm",
            activation="gelu_new",
            head_bias=True,
        ),
        "opt": Recipe(
            family="opt",
            keys={"intermediate": "ffn_dim", "activation": "activation_function"},
            attention=("q_proj", "k_proj", "v_proj", "out_proj"),
            mlp=("fc1", "fc2"),
            gated=False,
            qkv_bias="enable_bias",
            out_bias="enable_bias",
            mlp_bias="enable_bias",
            norm="layer",
            activation="relu",
            positions=True,
            extra_positions=2,
            final_norm=False,
            embed=_opt_narrow_words,
            tail=_opt_last,
        ),
        "mpt": Recipe(
            family="mpt",
            keys={
                "hidden": "d_model",
                "layers": "n_layers",
                "heads": "n_heads",
                "max_positions": "max_seq_len",
            },
            attention=("Wqkv", "out_proj"),
            mlp=("up_proj", "down_proj"),
            gated=False,
            qkv_bias="!no_bias",
            out_bias="!no_bias",
            mlp_bias="!no_bias",
            norm="layer",
            norm_bias="!no_bias",
            activation="gelu",
            adjust=_mpt,
            embed=_mpt_positions,
        ),
        "falcon": Recipe(
            family="falcon",
            keys={"intermediate": "ffn_hidden_size", "activation": "activation"},
            attention=_FUSED,
            mlp=_FOUR_H,
            gated=False,
            qkv_bias="bias",
            out_bias="bias",
            mlp_bias="bias",
            norm="layer",
            activation="gelu",
            adjust=_falcon,
        ),
        "bloom": Recipe(
            family="bloom",
            keys={"layers": "n_layer", "heads": "n_head"},
            attention=_FUSED,
            mlp=_FOUR_H,
            gated=False,
            qkv_bias=True,
            out_bias=True,
            mlp_bias=True,
            norm="layer",
            activation="gelu",
            embed=_bloom_embedding_norm,
        ),
        "starcoder2": Recipe(
            family="starcoder2",
            mlp=("c_fc", "c_proj"),
            gated=False,
            qkv_bias="use_bias",
            out_bias="use_bias",
            mlp_bias="use_bias",
            norm="layer",
            activation="gelu_pytorch_tanh",
        ),
    }
)

LEARNED_POSITIONS = frozenset({"gpt2", "opt"})
"""Families that have one vector for each position, and none beyond."""
