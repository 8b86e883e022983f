"""The parts of an MGM model, told by the key names that its checkpoints use."""

from typing import Literal

Part = Literal[
    "language_model",
    "vision_tower",
    "vision_tower_aux",
    "mm_projector",
    "vlm_uni_query_projector",
    "vlm_uni_aux_projector",
    "vlm_uni_val_projector",
]

LM_HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"
DECODER_LAYERS = "model.layers."

TOWERS: tuple[Part, ...] = ("vision_tower", "vision_tower_aux")
PROJECTORS: tuple[Part, ...] = (
    "mm_projector",
    "vlm_uni_query_projector",
    "vlm_uni_aux_projector",
    "vlm_uni_val_projector",
)


def part_of(name: str) -> Part:
    """Returns the part that a parameter or module belongs to.

    >>> part_of("model.vision_tower.vision_tower.vision_model.pre_layrnorm.weight")
    'vision_tower'
    >>> part_of("model.layers.0.mlp.up_proj.weight")
    'language_model'
    """
    for part in (*TOWERS, *PROJECTORS):
        if f"{name}.".startswith(f"model.{part}."):
            return part
    return "language_model"
