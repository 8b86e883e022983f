"""LLaVA and its like: a vision tower, a projector of one or two layers, a language model."""

from planner.architecture import Architecture, Linear, Tower
from planner.errors import PlannerError
from planner.models.assemble import with_towers
from planner.models.encoders import vision_tower
from planner.models.fields import Fields
from planner.models.recipe import Text
from planner.models.texts import language_model

CLIP_L_336 = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
"""What LlavaConfig builds where there is no vision_config: CLIP ViT-L/14 at 336 pixels."""

_SIGLIP_SO_224 = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4096,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "vision_use_head": False,
}
_SIGLIP_SO_384 = {**_SIGLIP_SO_224, "intermediate_size": 4304, "image_size": 384}
_ONEVISION_TOWER = {**_SIGLIP_SO_384, "num_hidden_layers": 26}
"""LLaVA cuts SigLIP's last layer off: it takes the features before it."""
_GEMMA_2B = {
    "hidden_size": 2048,
    "num_hidden_layers": 18,
    "intermediate_size": 16384,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "vocab_size": 257152,
}


def llava(fields: Fields, name: str) -> Architecture:
    """Reads a LLaVA 1.5 model (transformers' modeling_llava).

    The class token is left out of the image's tokens.

    Raises:
        PlannerError: a dimension is missing or impossible.
    """
    text = language_model(fields.nested("text_config", "llama"))
    tower = vision_tower(fields.nested("vision_config", "clip_vision_model", absent=CLIP_L_336))
    return _with_one_tower(fields, name, text, tower, tied=_tied(fields, text))


def llava_next(fields: Fields, name: str) -> Architecture:
    """Reads a LLaVA-NeXT model: LLaVA with tiles, and a learned end of each row of patches.

    ``image_tokens`` are those of one tile.

    Raises:
        PlannerError: a dimension is missing or impossible.
    """
    text = language_model(fields.nested("text_config", "llama"))
    tower = vision_tower(fields.nested("vision_config", "clip_vision_model", absent=CLIP_L_336))
    tied = fields.flag("tie_word_embeddings")
    return _with_one_tower(fields, name, text, tower, tied=tied, row_end=text.tower.hidden)


def llava_onevision(fields: Fields, name: str) -> Architecture:
    """Reads a LLaVA-OneVision model: LLaVA-NeXT with SigLIP and Qwen2 (its modeling file).

    ``image_tokens`` are those of one tile.

    Raises:
        PlannerError: a dimension is missing or impossible.
    """
    text = language_model(fields.nested("text_config", "qwen2"))
    vision = fields.nested("vision_config", "siglip_vision_model", absent=_ONEVISION_TOWER)
    tower = vision_tower(vision)
    tied = _tied(fields, text)
    return _with_one_tower(fields, name, text, tower, tied=tied, row_end=text.tower.hidden)


def _with_one_tower(
    fields: Fields, name: str, text: Text, tower: Tower, *, tied: bool, row_end: int = 0
) -> Architecture:
    """A tower, two layers, a language model; ``row_end``: parameters that end a row of patches."""
    return with_towers(
        name,
        fields.model_type,
        text,
        (tower,),
        _two_layers(fields, tower, text),
        _image_tokens(fields, tower),
        tied=tied,
        projector_other=row_end,
    )


def paligemma(fields: Fields, name: str) -> Architecture:
    """Reads a PaliGemma model: SigLIP, one linear layer, Gemma (modeling_paligemma).

    Raises:
        PlannerError: a dimension is missing or impossible.
    """
    text = language_model(fields.nested("text_config", "gemma", absent=_GEMMA_2B))
    vision = fields.nested("vision_config", "siglip_vision_model", absent=_SIGLIP_SO_224)
    tower = vision_tower(vision)
    width = fields.size("projection_dim")
    return with_towers(
        name,
        fields.model_type,
        text,
        (tower,),
        (Linear("linear", tower.hidden, width, bias=True),),
        tower.tokens,
        tied=fields.flag("tie_word_embeddings"),
    )


def gemma3(fields: Fields, name: str) -> Architecture:
    """Reads a multimodal Gemma 3: SigLIP, pooled to fewer tokens, a norm and a matrix.

    Raises:
        PlannerError: a dimension is missing or impossible.
    """
    text = language_model(fields.nested("text_config", "gemma3_text", fixed=True))
    tower = vision_tower(fields.nested("vision_config", "siglip_vision_model"))
    return with_towers(
        name,
        fields.model_type,
        text,
        (tower,),
        (Linear("mm_input_projection", tower.hidden, text.tower.hidden),),
        fields.size("mm_tokens_per_image"),
        tied=fields.flag("tie_word_embeddings"),
        projector_other=tower.hidden,
        projector_norms=(tower.hidden,),
    )


_TOWERS = {
    "clip-vit-large-patch14-336": CLIP_L_336,
    "clip-vit-large-patch14": {**CLIP_L_336, "image_size": 224},
    "siglip-so400m-patch14-384": _ONEVISION_TOWER,
}
"""By the end of ``mm_vision_tower``: the hub's name, or a directory's, in any spelling."""
_ORIGINAL_TEXTS = {
    "llava_llama": "llama",
    "llava_mistral": "mistral",
    "llava_qwen": "qwen2",
}
"""``model_type`` in LLaVA's own repository, and the language model that it stands for."""


def llava_original(fields: Fields, name: str) -> Architecture:
    """Reads a config of LLaVA's own repository: Llama's keys and ``mm_*`` beside them.

    The tower is known by the end of ``mm_vision_tower``; the projector is ``linear`` or
    ``mlpNx_gelu``. Where tiles are unpadded, the end of a row of patches is learned.

    Raises:
        PlannerError: the tower or the projector is unknown, or a dimension impossible.
    """
    if fields.has("llm_cfg"):
        raise PlannerError(
            "llm_cfg: VILA and NVILA keep sizes in further files; write them out as a llava config"
        )
    text_type = _ORIGINAL_TEXTS[fields.model_type]
    text = language_model(fields.retyped(text_type))
    path = fields.text("mm_vision_tower", "clip-vit-large-patch14-336")
    tower = _named_tower(path)
    tiled = "unpad" in fields.text("mm_patch_merge_type", "flat")
    return with_towers(
        name,
        "llava",
        text,
        (tower,),
        _named_projector(fields, tower, text),
        _image_tokens(fields, tower),
        projector_other=text.tower.hidden if tiled else 0,
    )


def _named_tower(path: str) -> Tower:
    spelling = path.rstrip("/").lower().replace("_", "-")
    content = next((dims for name, dims in _TOWERS.items() if spelling.endswith(name)), None)
    if content is None:
        raise PlannerError(f"mm_vision_tower {path!r} is unknown; known: {', '.join(_TOWERS)}")
    return vision_tower(Fields(content, str(content["model_type"]), path="mm_vision_tower"))


def _named_projector(fields: Fields, tower: Tower, text: Text) -> tuple[Linear, ...]:
    kind, width = fields.text("mm_projector_type", "linear"), text.tower.hidden
    if kind == "linear":
        return (Linear("mm_projector", tower.hidden, width, bias=True),)
    depth = kind.removeprefix("mlp").removesuffix("x_gelu")
    if not depth.isdecimal() or not 1 <= int(depth) <= 9:
        raise PlannerError(f"mm_projector_type {kind!r} is unknown; write linear or mlp2x_gelu")
    return (
        Linear("mm_projector.0", tower.hidden, width, bias=True),
        *(Linear(f"mm_projector.{2 * i}", width, width, bias=True) for i in range(1, int(depth))),
    )


def _tied(fields: Fields, text: Text) -> bool:
    """LlavaConfig copies the language model's answer where it is yes."""
    return fields.flag("tie_word_embeddings") or text.tied


def _two_layers(fields: Fields, tower: Tower, text: Text) -> tuple[Linear, Linear]:
    """LLaVA's projector; several feature layers are laid side by side."""
    layer = fields.get("vision_feature_layer")
    copies = len(layer) if isinstance(layer, list) and layer else 1
    bias = fields.flag("multimodal_projector_bias", fallback=True)
    width = text.tower.hidden
    return (
        Linear("linear_1", tower.hidden * copies, width, bias),
        Linear("linear_2", width, width, bias),
    )


def _image_tokens(fields: Fields, tower: Tower) -> int:
    classes = 1 if tower.family == "clip_vision_model" else 0
    drop = fields.text("vision_feature_select_strategy", "default") == "default"
    return tower.tokens - (classes if drop else 0)
