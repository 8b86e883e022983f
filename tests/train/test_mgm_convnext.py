"""The ConvNeXt trunk computes what transformers' implementation of the paper computes."""

import re

import pytest
import torch
import torch.nn.functional as F
from transformers import ConvNextConfig, ConvNextModel

from hpcjobs.run.model_config import AuxDims
from hpcjobs.train.mgm.convnext import ConvNextTower

DIMS = AuxDims(widths=(8, 12, 16, 20), depths=(1, 2, 3, 1), picture_px=64)

# timm's names on the left, transformers' on the right.
RENAMES = (
    (r"^vision_stem\.0", "embeddings.patch_embeddings"),
    (r"^vision_stem\.1", "embeddings.layernorm"),
    (r"^vision_stages", "encoder.stages"),
    (r"downsample", "downsampling_layer"),
    (r"blocks", "layers"),
    (r"conv_dw", "dwconv"),
    (r"(layers\.\d+)\.norm", r"\1.layernorm"),
    (r"mlp\.fc", "pwconv"),
    (r"gamma", "layer_scale_parameter"),
)


def renamed(key):
    for pattern, replacement in RENAMES:
        key = re.sub(pattern, replacement, key)
    return key


@pytest.fixture(scope="module")
def tower():
    torch.manual_seed(0)
    tower = ConvNextTower(DIMS).eval()
    with torch.no_grad():
        for block in tower.modules():
            if hasattr(block, "gamma"):  # a layer scale that differs by channel
                block.gamma.uniform_(0.2, 1.5)
    return tower


@pytest.fixture(scope="module")
def reference(tower):
    config = ConvNextConfig(
        hidden_sizes=list(DIMS.widths), depths=list(DIMS.depths), image_size=DIMS.picture_px
    )
    model = ConvNextModel(config).eval()
    weights = {renamed(key): value for key, value in tower.state_dict().items()}
    left = model.load_state_dict(weights, strict=False)
    assert left.unexpected_keys == []
    assert left.missing_keys == ["layernorm.weight", "layernorm.bias"]  # of the head
    return model


def test_every_stage_matches_the_reference(tower, reference):
    pictures = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        ours = tower.stage_maps(pictures)
        theirs = reference(pictures, output_hidden_states=True).hidden_states[1:]
    assert [m.shape for m in ours] == [m.shape for m in theirs]
    for our_map, their_map in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our_map, their_map, rtol=1e-5, atol=1e-5)


def test_stages_are_stacked_at_the_resolution_of_the_first(tower):
    with torch.no_grad():
        stacked = tower(torch.randn(2, 3, 64, 64))
    assert stacked.shape == (2, DIMS.channels, DIMS.grid, DIMS.grid)


def test_upsampled_stages_keep_their_channels_in_order(tower):
    pictures = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        stacked, maps = tower(pictures), tower.stage_maps(pictures)
    torch.testing.assert_close(stacked[:, :8], maps[0])
    last = F.interpolate(maps[3], size=(16, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(stacked[:, -20:], last)


def test_bf16_tower_takes_fp32_pictures(tower):
    half = ConvNextTower(DIMS).bfloat16()
    with torch.no_grad():
        assert half(torch.randn(1, 3, 64, 64)).dtype == torch.bfloat16
