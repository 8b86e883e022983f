"""The models of the sweep: presets, some with fewer layers, and families that have no preset."""

from typing import Any

from planner.models.presets import preset

# A layer more adds the same bytes again, so that a few of them teach as much in less time.
OTHERS: dict[str, dict[str, Any]] = {
    "phi-2": {
        "model_type": "phi", "hidden_size": 2560, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "intermediate_size": 10240,
        "vocab_size": 51200, "hidden_act": "gelu_new", "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    },
    "pythia-1.4b": {
        "model_type": "gpt_neox", "hidden_size": 2048, "num_hidden_layers": 24,
        "num_attention_heads": 16, "intermediate_size": 8192, "vocab_size": 50304,
        "hidden_act": "gelu", "max_position_embeddings": 4096, "tie_word_embeddings": False,
        "use_parallel_residual": True,
    },
    "gpt2-large": {
        "model_type": "gpt2", "n_embd": 1280, "n_layer": 36, "n_head": 20, "vocab_size": 50257,
        "n_positions": 4096, "activation_function": "gelu_new", "tie_word_embeddings": True,
    },
    "opt-1.3b": {
        "model_type": "opt", "hidden_size": 2048, "num_hidden_layers": 24,
        "num_attention_heads": 32, "ffn_dim": 8192, "vocab_size": 50272,
        "max_position_embeddings": 4096, "word_embed_proj_dim": 2048,
        "activation_function": "relu", "tie_word_embeddings": True,
    },
    "qwen3-1.7b": {
        "model_type": "qwen3", "hidden_size": 2048, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
        "intermediate_size": 6144, "vocab_size": 151936, "hidden_act": "silu",
        "max_position_embeddings": 40960, "tie_word_embeddings": True,
    },
    "gemma-2-2b": {
        "model_type": "gemma2", "hidden_size": 2304, "num_hidden_layers": 26,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
        "intermediate_size": 9216, "vocab_size": 256000,
        "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 8192,
        "sliding_window": 4096, "tie_word_embeddings": True,
    },
    "gemma-3-1b": {
        "model_type": "gemma3_text", "hidden_size": 1152, "num_hidden_layers": 26,
        "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256,
        "intermediate_size": 6912, "vocab_size": 262144,
        "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 32768,
        "sliding_window": 4096, "tie_word_embeddings": True,
    },
    "phi-3-mini": {
        "model_type": "phi3", "hidden_size": 3072, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "intermediate_size": 8192,
        "vocab_size": 32064, "hidden_act": "silu", "max_position_embeddings": 4096,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
    },
    "paligemma-3b": {
        "model_type": "paligemma", "projection_dim": 2048, "image_token_index": 257152,
        "text_config": {
            "model_type": "gemma", "hidden_size": 2048, "num_hidden_layers": 18,
            "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256,
            "intermediate_size": 16384, "vocab_size": 257216,
            "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 8192,
        },
        "vision_config": {
            "model_type": "siglip_vision_model", "hidden_size": 1152, "num_hidden_layers": 27,
            "num_attention_heads": 16, "intermediate_size": 4304, "image_size": 224,
            "patch_size": 14, "projection_dim": 2048, "vision_use_head": False,
        },
    },
}  # fmt: skip
_LAYERS = ("num_hidden_layers", "n_layer", "layers")


def config_of(name: str, layers: int | None = None) -> dict[str, Any]:
    """The ``config.json`` of a model, its language model cut to ``layers``."""
    content = dict(OTHERS[name]) if name in OTHERS else dict(preset(name))
    if layers is None:
        return content
    part = next((key for key in ("text_config", "text") if key in content), None)
    text = dict(content[part]) if part else content
    key = next(key for key in _LAYERS if key in text)
    text[key] = layers
    return {**content, part: text} if part else text
