"""What each method trains, and which target patterns are refused."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from hpcjobs.run.errors import ConfigError
from hpcjobs.run.experiment import Method
from hpcjobs.run.model_config import Model
from hpcjobs.run.schema import build
from hpcjobs.train.method import apply_method, base_model, trainable_parameters
from hpcjobs.train.mgm.model import build_model
from hpcjobs.train.mgm.names import PROJECTORS, TOWERS, part_of
from hpcjobs.train.mgm.placeholders import IMAGE_TOKEN_INDEX

CONF = Path(__file__).parents[2] / "conf" / "model" / "mgm_tiny.yaml"
TINY = build(Model, OmegaConf.to_container(OmegaConf.load(CONF)))


def method(kind="lora", **options):
    return build(Method, {"kind": kind, **options})


def meta_model():
    with torch.device("meta"):
        return build_model(TINY)


def trained_parts(module):
    return {
        part_of(name.removeprefix("base_model.model.")) for name in trainable_parameters(module)
    }


@pytest.mark.parametrize(
    ("chosen", "parts"),
    [
        (method("lora"), {"language_model", *PROJECTORS}),
        (method("lora", train_projector=False), {"language_model"}),
        (method("full"), {"language_model", *PROJECTORS}),
        (method("full", train_projector=False), {"language_model"}),
        (method("projector"), set(PROJECTORS)),
    ],
)
def test_towers_stay_frozen_under_every_method(chosen, parts):
    module = apply_method(meta_model(), chosen)
    assert trained_parts(module) == parts


def test_lora_leaves_the_base_weights_frozen():
    module = apply_method(meta_model(), method(train_projector=False))
    assert all(".lora_" in name for name in trainable_parameters(module))


def test_full_trains_the_embedding_and_every_layer():
    names = set(trainable_parameters(apply_method(meta_model(), method("full"))))
    text = {n for n, _ in meta_model().named_parameters() if part_of(n) == "language_model"}
    assert text <= names


def test_no_tower_is_wrapped_by_the_default_targets():
    module = apply_method(meta_model(), method())
    wrapped = [name for name, _ in module.named_modules() if name.endswith("lora_A")]
    assert len(wrapped) == TINY.text.layers * 7
    assert all(name.startswith("base_model.model.model.layers.") for name in wrapped)


def test_adapters_take_the_dtype_of_their_layers():
    model = build_model(TINY).bfloat16()
    module = apply_method(model, method())
    assert {p.dtype for p in trainable_parameters(module).values()} == {torch.bfloat16}


def test_narrow_targets_wrap_what_they_name():
    module = apply_method(meta_model(), method(targets=r"model\.layers\.[01]\.mlp\.up_proj"))
    adapters = [name for name in trainable_parameters(module) if ".lora_" in name]
    assert len(adapters) == 2 * 2


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ("q_proj", r"matches no module.* model\.layers\.0\.self_attn\.q_proj"),
        (r"model\.layers\.\d+\.mlp\.gate", r"matches no module.* model\.layers\.0\.mlp\.gate_proj"),
        (r".*\.(q|k|v)_proj", r"vision_tower.*stay frozen"),
        (r".*mlp\.fc1", r"vision_tower.*stay frozen"),
        (r".*vision_stages.*conv_dw", r"vision_tower_aux.*stay frozen"),
        (r"model\.mm_projector\.0", r"mm_projector\.0, which is no linear layer of the decoder"),
        (r"lm_head", r"lm_head, which is no linear layer of the decoder"),
        (r"model\.layers\.0\.mlp", r"model\.layers\.0\.mlp, which is no linear layer"),
        (r"()", r"the whole model, which is no linear layer"),
    ],
)
def test_targets_outside_the_decoder_are_refused(targets, message):
    with pytest.raises(ConfigError, match=message):
        apply_method(meta_model(), method(targets=targets))


def test_projector_method_without_projector_is_refused():
    with pytest.raises(ConfigError, match="nothing to train"):
        apply_method(meta_model(), method("projector", train_projector=False))


def batch():
    ids = [2, *[IMAGE_TOKEN_INDEX] * TINY.picture_tokens, 5, 6, 7, 1]
    ids = torch.tensor([ids])
    labels = torch.where(ids > 4, ids, -100)
    side = TINY.aux.picture_px
    return ids, torch.ones_like(ids), labels, torch.randn(1, 3, side, side)


@pytest.fixture(scope="module")
def adapted():
    torch.manual_seed(0)
    model = build_model(TINY)
    given = batch()
    before = model(*given)
    return given, before, apply_method(model, method(dropout=0.0))


def test_fresh_adapters_change_nothing(adapted):
    given, before, module = adapted
    torch.testing.assert_close(module(*given), before)


def test_positions_and_keywords_mean_the_same(adapted):
    given, _, module = adapted
    names = ("input_ids_BL", "attention_mask_BL", "labels_BL", "pictures_P3HH")
    torch.testing.assert_close(module(**dict(zip(names, given, strict=True))), module(*given))


def test_logits_are_reachable_through_the_adapters(adapted):
    given, _, module = adapted
    logits = module.logits(given[0], given[1], given[3])
    assert logits.shape == (*given[0].shape, TINY.text.vocab)


def test_only_what_is_trained_gets_a_gradient(adapted):
    given, _, module = adapted
    module.zero_grad(set_to_none=True)
    module(*given).backward()
    for name, parameter in module.named_parameters():
        # lora_A first gets a gradient through lora_B, which starts at zero.
        assert (parameter.grad is not None) == parameter.requires_grad, name
    assert part_of("model.vision_tower.x") in TOWERS


def test_base_model_is_found_with_and_without_adapters(adapted):
    _, _, module = adapted
    assert type(base_model(module)).__name__ == "MgmForCausalLM"
    assert base_model(base_model(module)) is base_model(module)
