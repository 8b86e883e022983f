"""The CLIP tower gives transformers' features under MGM's key names."""

import pytest
import torch
from transformers import CLIPVisionModel

from hpcjobs.run.model_config import VisionDims
from hpcjobs.train.mgm.clip_tower import ClipTower, clip_config

DIMS = VisionDims(hidden=16, layers=3, heads=2, intermediate=32, picture_px=28, patch_px=7)
PREFIX = "vision_tower.vision_model."


@pytest.fixture(scope="module")
def tower():
    torch.manual_seed(0)
    return ClipTower(DIMS).eval()


def test_features_are_the_last_layer_but_one_without_the_class_token(tower):
    reference = CLIPVisionModel(clip_config(DIMS)).eval()
    reference.load_state_dict({k.removeprefix(PREFIX): v for k, v in tower.state_dict().items()})
    pictures = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        hidden = reference(pictures, output_hidden_states=True).hidden_states
        torch.testing.assert_close(tower(pictures), hidden[-2][:, 1:])
    assert len(hidden) == DIMS.layers + 1


def test_keys_have_the_level_that_old_checkpoints_have(tower):
    layer = "encoder.layers.{}."
    parts = ["self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj"]
    parts += ["layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2"]
    modules = ["pre_layrnorm", "post_layernorm"]
    modules += [layer.format(n) + part for n in range(DIMS.layers) for part in parts]
    expected = {f"{PREFIX}{module}.{kind}" for module in modules for kind in ("weight", "bias")}
    expected |= {
        f"{PREFIX}embeddings.{name}"
        for name in ("class_embedding", "patch_embedding.weight", "position_embedding.weight")
    }
    assert set(tower.state_dict()) == expected


def test_bf16_tower_takes_fp32_pictures():
    tower = ClipTower(DIMS).bfloat16()
    assert tower(torch.randn(1, 3, 28, 28)).dtype == torch.bfloat16
