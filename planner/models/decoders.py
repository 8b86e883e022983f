"""Families of decoders that follow Llama: rotary positions and, mostly, RMS norm and a gate.

Where transformers has no class for a ``model_type`` (Qwen v1, ChatGLM, Baichuan, InternLM), the
row follows the modeling file that is published beside the weights.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from planner.models.fields import Fields, require_multiple
from planner.models.recipe import Recipe

_GEMMA_KEYS = {"activation": "hidden_activation"}
_FUSED = ("query_key_value", "dense")


def _halved(fields: Fields) -> Mapping[str, Any]:
    """Qwen v1 writes the width of gate and up together."""
    whole = fields.size("intermediate_size")
    inner = require_multiple("intermediate_size", whole, "gate and up", 2)
    return {"intermediate": inner, "head_dim": fields.size_or("kv_channels", 0) or None}


def _chatglm(fields: Fields) -> Mapping[str, Any]:
    """ChatGLM2 and 3 share keys among groups of heads where they say so."""
    grouped = fields.flag("multi_query_attention")
    return {"kv_heads": fields.size("multi_query_group_num") if grouped else None}


def _one_norm_when_parallel(fields: Fields) -> Mapping[str, Any]:
    return {"norms": 1 if fields.flag("use_parallel_residual") else 2}


def _gemma_text(family: str, *, qk_norm: bool) -> Recipe:
    """Gemma 3 normalises queries and keys, and has its window in five layers of six."""
    return Recipe(
        family=family,
        keys=_GEMMA_KEYS,
        qkv_bias="attention_bias",
        out_bias="attention_bias",
        norms=4,
        qk_norm=qk_norm,
        windowed=qk_norm,
        activation="gelu_pytorch_tanh",
    )


DECODERS: Mapping[str, Recipe] = MappingProxyType(
    {
        "llama": Recipe(
            family="llama",
            qkv_bias="attention_bias",
            out_bias="attention_bias",
            mlp_bias="mlp_bias",
        ),
        "mistral": Recipe(family="mistral"),
        "qwen2": Recipe(family="qwen2", qkv_bias=True),
        "qwen2_vl_text": Recipe(family="qwen2", qkv_bias=True),
        "qwen2_5_vl_text": Recipe(family="qwen2", qkv_bias=True),
        "qwen3": Recipe(
            family="qwen3", qkv_bias="attention_bias", out_bias="attention_bias", qk_norm=True
        ),
        "gemma": Recipe(
            family="gemma",
            qkv_bias="attention_bias",
            out_bias="attention_bias",
            activation="gelu_pytorch_tanh",
        ),
        "gemma2": _gemma_text("gemma2", qk_norm=False),
        "gemma3_text": _gemma_text("gemma3", qk_norm=True),
        "phi3": Recipe(
            family="phi3", attention=("qkv_proj", "o_proj"), mlp=("gate_up_proj", "down_proj")
        ),
        "stablelm": Recipe(
            family="stablelm",
            qkv_bias="use_qkv_bias",
            norm="layer",
            qk_norm="qk_layernorm",
            qk_norm_width="heads",
            qk_norm_bias=False,
            adjust=_one_norm_when_parallel,
        ),
        "granite": Recipe(
            family="granite",
            qkv_bias="attention_bias",
            out_bias="attention_bias",
            mlp_bias="mlp_bias",
        ),
        "olmo2": Recipe(
            family="olmo2",
            qkv_bias="attention_bias",
            out_bias="attention_bias",
            qk_norm=True,
            qk_norm_width="heads",
        ),
        "cohere": Recipe(
            family="cohere",
            qkv_bias="attention_bias",
            out_bias="attention_bias",
            norm="layer",
            norm_bias=False,
            norms=1,
            qk_norm="use_qk_norm",
            qk_norm_width="heads",
            qk_norm_bias=False,
        ),
        "qwen": Recipe(
            family="qwen",
            keys={"max_positions": "seq_length"},
            attention=("c_attn", "c_proj"),
            mlp=("w1", "w2", "c_proj"),
            qkv_bias=True,
            out_bias="!no_bias",
            mlp_bias="!no_bias",
            adjust=_halved,
        ),
        "chatglm": Recipe(
            family="chatglm",
            keys={
                "layers": "num_layers",
                "intermediate": "ffn_hidden_size",
                "vocab": "padded_vocab_size",
                "head_dim": "kv_channels",
                "max_positions": "seq_length",
            },
            attention=_FUSED,
            mlp=("dense_h_to_4h", "dense_4h_to_h"),
            qkv_bias="add_qkv_bias",
            out_bias="add_bias_linear",
            mlp_bias="add_bias_linear",
            adjust=_chatglm,
        ),
        "baichuan": Recipe(
            family="baichuan",
            keys={"max_positions": "model_max_length"},
            attention=("W_pack", "o_proj"),
        ),
        "internlm": Recipe(family="internlm", qkv_bias="bias", out_bias="bias"),
        "internlm2": Recipe(
            family="internlm2",
            attention=("wqkv", "wo"),
            mlp=("w1", "w3", "w2"),
            qkv_bias="bias",
            out_bias="bias",
        ),
        "xverse": Recipe(family="xverse"),
    }
)
