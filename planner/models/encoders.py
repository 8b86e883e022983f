"""Families of vision towers."""

from collections.abc import Mapping
from types import MappingProxyType

from planner.architecture import Tower
from planner.errors import PlannerError
from planner.models.convnext import convnext_tower
from planner.models.encoder import EncoderRecipe, encoder_of
from planner.models.fields import Fields
from planner.models.unknown import unknown_family

_MERGED_TOKENS = 1280
"""Qwen's README limits a picture to 1280 x 28 x 28 pixels, and a token is 28 x 28 of them."""


def _siglip_head(fields: Fields, hidden: int) -> int:
    """SigLIP pools by an attention with one learned query (modeling_siglip's pooling head)."""
    if not fields.flag("vision_use_head", fallback=True):
        return 0
    attention = 4 * hidden * hidden + 4 * hidden
    inner = fields.size("intermediate_size")
    return hidden + attention + 2 * hidden + 2 * hidden * inner + inner + hidden


def _vit_pooler(fields: Fields, hidden: int) -> int:
    width = fields.size_or("pooler_output_size", hidden)
    return width * hidden + width


def _mask_token(fields: Fields, hidden: int) -> int:
    return hidden if fields.flag("use_mask_token") else 0


def _merged(fields: Fields) -> int:
    """Patches of a picture of the recommended size; the real number varies with the picture."""
    return _MERGED_TOKENS * fields.size_or("spatial_merge_size", 2) ** 2


def _window(fields: Fields) -> int:
    side = fields.size_or("window_size", 112) // fields.size("patch_size")
    return max(1, side) ** 2


_SIGLIP = EncoderRecipe(
    family="siglip_vision_model",
    class_tokens=0,
    patch_bias=True,
    activation="gelu_pytorch_tanh",
    tail=_siglip_head,
)

ENCODERS: Mapping[str, EncoderRecipe] = MappingProxyType(
    {
        "clip_vision_model": EncoderRecipe(
            family="clip_vision_model", pre_norm=True, activation="quick_gelu"
        ),
        "siglip_vision_model": _SIGLIP,
        "vit": EncoderRecipe(
            family="vit",
            attention=("q_proj", "k_proj", "v_proj", "o_proj"),
            qkv_bias="qkv_bias",
            patch_bias=True,
            tail=_vit_pooler,
        ),
        "intern_vit_6b": EncoderRecipe(
            family="intern_vit_6b",
            attention=("qkv", "proj"),
            qkv_bias="qkv_bias",
            norm_key="norm_type",
            qk_norm="qk_normalization",
            layer_scales=2,
            patch_bias=True,
            post_norm=False,
        ),
        "internvl_vision": EncoderRecipe(
            family="internvl_vision",
            attention=("q_proj", "k_proj", "v_proj", "projection_layer"),
            qkv_bias="attention_bias",
            norm_key="norm_type",
            qk_norm="use_qk_norm",
            layer_scales=2,
            patch_bias=True,
            positions="use_absolute_position_embeddings",
            post_norm="!use_mean_pooling",
            tail=_mask_token,
        ),
        "blip_2_vision_model": EncoderRecipe(
            family="blip_2_vision_model",
            attention=("qkv", "projection"),
            qkv_bias="qkv_bias",
            patch_bias=True,
        ),
        "qwen2_vl_vision": EncoderRecipe(
            family="qwen2_vl_vision",
            keys={
                "hidden": "embed_dim",
                "layers": "depth",
                "heads": "num_heads",
                "channels": "in_channels",
            },
            attention=("qkv", "proj"),
            class_tokens=0,
            positions=False,
            post_norm=False,
            expansion_key="mlp_ratio",
            activation="quick_gelu",
            tokens=_merged,
            frames_key="temporal_patch_size",
        ),
        "qwen2_5_vl_vision": EncoderRecipe(
            family="qwen2_5_vl_vision",
            keys={"layers": "depth", "heads": "num_heads", "channels": "in_channels"},
            attention=("qkv", "proj"),
            mlp=("gate_proj", "up_proj", "down_proj"),
            gated=True,
            norm="rms",
            class_tokens=0,
            positions=False,
            post_norm=False,
            activation="silu",
            tokens=_merged,
            frames_key="temporal_patch_size",
            window=_window,
        ),
        "qwen_visual": EncoderRecipe(
            family="qwen_visual",
            keys={"hidden": "width", "layers": "layers", "heads": "heads"},
            attention=("in_proj", "out_proj"),
            mlp=("c_fc", "c_proj"),
            class_tokens=0,
            positions=False,
            pre_norm=True,
            post_norm=False,
            expansion_key="mlp_ratio",
        ),
    }
)


def vision_tower(fields: Fields, name: str = "vision_tower") -> Tower:
    """Reads a vision tower of any known family.

    Raises:
        UnknownFamilyError: no recipe has this ``model_type``.
        PlannerError: a dimension is missing or impossible.
    """
    if fields.model_type == "convnext":
        return _convnext(fields, name)
    recipe = ENCODERS.get(fields.model_type)
    if recipe is None:
        known = {*ENCODERS, "convnext"}
        raise unknown_family(fields.where("model_type"), fields.model_type, known)
    return encoder_of(recipe, fields, name)


def _convnext(fields: Fields, name: str) -> Tower:
    """Transformers' ConvNeXt: a norm after the last stage, which counts as final."""
    widths, depths = fields.sizes("hidden_sizes"), fields.sizes("depths")
    if len(widths) != len(depths):
        raise PlannerError(f"{fields.where('depths')} must be {len(widths)} sizes")
    return convnext_tower(
        widths,
        depths,
        fields.size("image_size"),
        name=name,
        names=("pwconv1", "pwconv2"),
        final=2 * widths[-1],
    )
