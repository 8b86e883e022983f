"""The CLIP vision transformer that sees the low-resolution picture.

Shapes: P pictures, h side of a picture in pixels, N patches (the grid squared), T = N + 1 with
the class token, C width.
"""

from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from hpcjobs.run.model_config import VisionDims
from hpcjobs.train.mgm.random_init import init_fan_in


class ClipTower(nn.Module):
    """CLIP's patch features as MGM takes them: the last layer but one, without the class token.

    MGM-2B: ViT-L/14 at 336 px (Radford et al., "Learning Transferable Visual Models From Natural
    Language Supervision", 2021), 576 patches of width 1024.
    """

    def __init__(self, dims: VisionDims) -> None:
        super().__init__()
        self.vision_tower = _Layout(CLIPVisionModel(clip_config(dims)))
        init_fan_in(self)

    def forward(self, pictures_P3hh: Tensor) -> Tensor:
        """Returns the patch features [P, N, C] of normalised pictures [P, 3, h, h].

        The last layer and the final norm are left out, not computed and dropped: their output
        is never used, they are here because the checkpoints hold them.
        """
        clip = self.vision_tower.vision_model
        hidden_PTC: Tensor = clip.pre_layrnorm(clip.embeddings(pictures_P3hh))
        for layer in clip.encoder.layers[:-1]:
            hidden_PTC = layer(hidden_PTC, None)
        return hidden_PTC[:, 1:]


class _Layout(nn.Module):
    """Keeps the level ``vision_model`` of MGM's key names, which transformers 5 has dropped."""

    def __init__(self, vision_model: CLIPVisionModel) -> None:
        super().__init__()
        self.vision_model = vision_model


def clip_config(dims: VisionDims) -> CLIPVisionConfig:
    """Returns the dimensions in transformers' terms; all else as OpenAI trained CLIP."""
    return CLIPVisionConfig(
        hidden_size=dims.hidden,
        num_hidden_layers=dims.layers,
        num_attention_heads=dims.heads,
        intermediate_size=dims.intermediate,
        image_size=dims.picture_px,
        patch_size=dims.patch_px,
        hidden_act="quick_gelu",
        layer_norm_eps=1e-5,
    )
