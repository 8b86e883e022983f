"""The planner's counts are transformers' own, parameter for parameter and part for part."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import pytest
from meta_models import CONFIG_MAPPING, build, counts, default_of, layer_linears

from planner.models import fields as fields_module
from planner.models.encoders import vision_tower
from planner.models.fields import Fields, defaults_of
from planner.models.presets import preset
from planner.models.read import architecture_of

DEFAULTS = Path(fields_module.__file__).with_name("defaults.json")
SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 200,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ALL_HEADS = {**SMALL, "num_key_value_heads": 4}
MIXED = {**SMALL, "moe_intermediate_size": 48, "num_experts_per_tok": 2}

TEXTS = [
    ("llama", {}),
    ("llama", {**SMALL, "attention_bias": True, "mlp_bias": True, "head_dim": 32}),
    ("llama", {**SMALL, "tie_word_embeddings": True, "num_key_value_heads": None}),
    ("mistral", {}),
    ("olmo2", {}),
    ("olmo2", {**SMALL, "attention_bias": True}),
    ("granite", {}),
    ("granite", {**SMALL, "mlp_bias": True, "tie_word_embeddings": True}),
    ("qwen2", SMALL),
    ("qwen3", SMALL),
    ("qwen3", {**SMALL, "attention_bias": True, "tie_word_embeddings": True}),
    ("gemma", {}),
    ("gemma2", {}),
    ("gemma3_text", {}),
    ("phi", {**ALL_HEADS, "qk_layernorm": True}),
    ("phi", {}),
    ("phi3", SMALL),
    ("gpt2", {}),
    ("gpt2", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": 100}),
    ("gptj", {"n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8}),
    ("gpt_neox", {**ALL_HEADS, "attention_bias": False}),
    ("opt", {}),
    ("opt", {"word_embed_proj_dim": 32, "hidden_size": 64, "do_layer_norm_before": False, "num_attention_heads": 4}),
    ("mpt", {}),
    ("falcon", {}),
    ("falcon", {**ALL_HEADS, "multi_query": False, "parallel_attn": False, "bias": True}),
    ("falcon", {**ALL_HEADS, "new_decoder_architecture": True, "num_kv_heads": 2}),
    ("bloom", {}),
    ("starcoder2", SMALL),
    ("stablelm", {**SMALL, "qk_layernorm": True, "use_qkv_bias": True, "use_parallel_residual": True}),
    ("cohere", {**SMALL, "use_qk_norm": True}),
    ("mixtral", SMALL),
    ("qwen2_moe", {**MIXED, "decoder_sparse_step": 2}),
    ("qwen3_moe", {**MIXED, "mlp_only_layers": [1]}),
    ("deepseek_v2", {**ALL_HEADS, "first_k_dense_replace": 1, "num_experts_per_tok": 6}),
    ("deepseek_v3", {**ALL_HEADS, "q_lora_rank": None, "first_k_dense_replace": 1}),
]  # fmt: skip
PRESETS = ["gemma-2b", "llama-2-13b", "qwen2.5-7b", "falcon-40b", "qwen3-30b-a3b", "phi-2"]

LM = r"language_model"
LLAVA = {
    "head": r"^lm_head",
    "vision_tower": r"vision_tower",
    "language_model": LM,
    "projector": r"multi_modal_projector|image_newline",
}
QWEN_VL = {
    "head": r"^lm_head",
    "projector": r"visual\.merger",
    "vision_tower": r"visual",
    "language_model": LM,
}
BLIP = {
    "head": r"lm_head",
    "vision_tower": r"^vision_model",
    "qformer": r"^qformer|^query_tokens",
    "projector": r"^language_projection",
    "language_model": LM,
}
VISION = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
}
GEMMA_SMALL = {**SMALL, "head_dim": 16, "model_type": "gemma"}
INTERN = {**VISION, "image_size": [56, 56], "patch_size": [14, 14]}
MULTIMODAL = [
    ("llava-1.5-7b", LLAVA),
    ("llava-next-mistral-7b", LLAVA),
    ("qwen2-vl-2b", QWEN_VL),
    ("qwen2.5-vl-7b", QWEN_VL),
    ("paligemma-3b-224", LLAVA),
    ("gemma-3-4b", LLAVA),
    ("blip2-opt-2.7b", BLIP),
    ({"model_type": "llava"}, LLAVA),
    ({"model_type": "llava_onevision"}, LLAVA),
    (
        {
            "model_type": "llava_onevision",
            "text_config": {**SMALL, "model_type": "qwen2", "tie_word_embeddings": True},
            "vision_config": {**VISION, "model_type": "siglip_vision_model"},
        },
        LLAVA,
    ),
    (
        {
            "model_type": "llava",
            "text_config": {**SMALL, "model_type": "qwen2", "tie_word_embeddings": True},
            "vision_config": {**VISION, "model_type": "siglip_vision_model"},
            "vision_feature_layer": [-2, -1],
            "multimodal_projector_bias": False,
        },
        LLAVA,
    ),
    ({"model_type": "qwen2_vl", "text_config": SMALL}, QWEN_VL),
    ({"model_type": "paligemma"}, LLAVA),
    (
        {
            "model_type": "internvl",
            "text_config": {**SMALL, "model_type": "qwen2"},
            "vision_config": {**INTERN, "use_qk_norm": True, "norm_type": "rms_norm"},
            "tie_word_embeddings": False,
        },
        LLAVA,
    ),
    (
        {
            "model_type": "internvl",
            "text_config": {**SMALL, "model_type": "llama"},
            "vision_config": {
                **INTERN,
                "attention_bias": True,
                "use_mean_pooling": False,
                "use_mask_token": True,
            },
        },
        LLAVA,
    ),
]

TOWERS = [
    ("clip_vision_model", {}),
    ("clip_vision_model", VISION),
    ("siglip_vision_model", {}),
    ("siglip_vision_model", {**VISION, "vision_use_head": False}),
    ("vit", {}),
    ("vit", {**VISION, "qkv_bias": False}),
    ("convnext", {}),
    ("convnext", {"hidden_sizes": [192, 384, 768, 1536], "depths": [3, 3, 27, 3]}),
]


def ids(case):
    name = case[0] if isinstance(case[0], str) else case[0]["model_type"]
    return f"{name}-{len(case[1])}"


@pytest.mark.parametrize(("model_type", "dims"), TEXTS, ids=map(ids, TEXTS))
def test_a_language_model_has_as_many_parameters_as_its_class(model_type, dims):
    content = {"model_type": model_type, **dims}
    found = counts(build(content, "causal"), {"head": "^lm_head|^embed_out"})
    ours = architecture_of(content)
    assert ours.parameters == sum(found.values())
    assert ours.head == found.get("head", 0)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_as_many_parameters_as_its_class(name):
    assert architecture_of(name).parameters == sum(
        counts(build(preset(name), "causal"), {}).values()
    )


@pytest.mark.parametrize(
    ("model", "parts"), MULTIMODAL, ids=[str(i) for i in range(len(MULTIMODAL))]
)
def test_every_part_of_a_multimodal_model_is_as_large_as_its_module(model, parts):
    content = preset(model) if isinstance(model, str) else model
    found = counts(build(content, "image"), parts)
    ours = architecture_of(content).components
    assert {part: n for part, n in ours.items() if n} == found


@pytest.mark.parametrize(("model_type", "dims"), TOWERS, ids=map(ids, TOWERS))
def test_a_vision_tower_is_as_large_as_its_class(model_type, dims):
    found = counts(build({"model_type": model_type, **dims}, "plain"), {})
    tower = vision_tower(Fields(dims, model_type, defaults_of(model_type)))
    assert tower.parameters == sum(found.values())


def test_the_linears_of_a_layer_have_their_modules_names_and_sizes():
    for model_type, dims in TEXTS:
        content = {"model_type": model_type, **dims}
        ours = architecture_of(content)
        if any(x.copies > 1 for g in ours.language_model.groups for x in g.linears):
            continue  # transformers 5 keeps all experts in one parameter, which is no linear
        expected = Counter(
            (linear.name, linear.inputs, linear.outputs, linear.bias)
            for group in ours.language_model.groups
            for linear in group.linears
            for _ in range(group.count)
        )
        assert layer_linears(build(content, "causal")) == expected, content


def test_defaults_are_those_of_the_installed_classes():
    """defaults.json has what the configuration classes fill in; remote code has no class."""
    for model_type, row in json.loads(DEFAULTS.read_text()).items():
        if model_type not in CONFIG_MAPPING:
            continue
        fields = {f.name: f for f in dataclasses.fields(CONFIG_MAPPING[model_type])}
        theirs = {key: default_of(fields[key]) for key in row}
        assert row == theirs, model_type
