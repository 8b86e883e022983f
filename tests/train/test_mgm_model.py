"""The whole model: its keys, its loss, its gradients, its pictures."""

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf

from hpcjobs.run.errors import InputError
from hpcjobs.run.model_config import Model
from hpcjobs.run.schema import build
from hpcjobs.train.mgm.loss import IGNORE_INDEX
from hpcjobs.train.mgm.model import build_model
from hpcjobs.train.mgm.names import PROJECTORS, TOWERS, part_of
from hpcjobs.train.mgm.placeholders import IMAGE_TOKEN_INDEX

CONF = Path(__file__).parents[2] / "conf" / "model"


def dims_of(name):
    return build(Model, OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml")))


TINY = dims_of("mgm_tiny")
N = TINY.picture_tokens


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(TINY)


@pytest.fixture(autouse=True)
def _no_gradients_left(model):
    torch.manual_seed(1)
    model.zero_grad(set_to_none=True)


def pictures(count):
    side = TINY.aux.picture_px
    return torch.randn(count, 3, side, side)


def batch(*samples):
    """Samples as lists of ids with "x" for a picture; the last half of the ids is learnt."""
    rows = [
        [t for i in ids for t in ([IMAGE_TOKEN_INDEX] * N if i == "x" else [i])] for ids in samples
    ]
    longest = max(len(row) for row in rows)
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    labels = torch.full_like(ids, IGNORE_INDEX)
    for b, (row, sample) in enumerate(zip(rows, samples, strict=True)):
        learnt = range(len(row) - len(sample) // 2, len(row))
        labels[b, learnt] = ids[b, learnt]
    return ids, mask, labels


TWO = ([2, "x", 5, 6, 7, 8, 9, 1], [2, 11, "x", 12, 13, 14])


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


# -- keys and shapes


def expected_2b_shapes():
    """MGM-2B's state dict, written down from the dimensions of its four sources."""
    d, inter, kv, c, a = 2048, 16384, 256, 1024, 2880
    shapes = {"model.embed_tokens.weight": (256000, d), "lm_head.weight": (256000, d)}
    shapes["model.norm.weight"] = (d,)

    def both(name, weight, bias):
        shapes[f"{name}.weight"] = weight
        shapes[f"{name}.bias"] = bias

    for n in range(18):
        layer = f"model.layers.{n}."
        attention = {"q_proj": (d, d), "k_proj": (kv, d), "v_proj": (kv, d), "o_proj": (d, d)}
        mlp = {"gate_proj": (inter, d), "up_proj": (inter, d), "down_proj": (d, inter)}
        shapes |= {f"{layer}self_attn.{k}.weight": v for k, v in attention.items()}
        shapes |= {f"{layer}mlp.{k}.weight": v for k, v in mlp.items()}
        shapes[f"{layer}input_layernorm.weight"] = (d,)
        shapes[f"{layer}post_attention_layernorm.weight"] = (d,)
    both("model.mm_projector.0", (d, c), (d,))
    both("model.mm_projector.2", (d, d), (d,))
    for name, width in (("query", c), ("aux", a), ("val", a)):
        both(f"model.vlm_uni_{name}_projector.0", (width,), (width,))
        both(f"model.vlm_uni_{name}_projector.1", (c, width), (c,))
    clip = "model.vision_tower.vision_tower.vision_model."
    shapes[f"{clip}embeddings.class_embedding"] = (c,)
    shapes[f"{clip}embeddings.patch_embedding.weight"] = (c, 3, 14, 14)
    shapes[f"{clip}embeddings.position_embedding.weight"] = (577, c)
    both(f"{clip}pre_layrnorm", (c,), (c,))
    both(f"{clip}post_layernorm", (c,), (c,))
    for n in range(24):
        layer = f"{clip}encoder.layers.{n}."
        for name in ("q", "k", "v", "out"):
            both(f"{layer}self_attn.{name}_proj", (c, c), (c,))
        both(f"{layer}layer_norm1", (c,), (c,))
        both(f"{layer}layer_norm2", (c,), (c,))
        both(f"{layer}mlp.fc1", (4 * c, c), (4 * c,))
        both(f"{layer}mlp.fc2", (c, 4 * c), (c,))
    conv = "model.vision_tower_aux."
    both(f"{conv}vision_stem.0", (192, 3, 4, 4), (192,))
    both(f"{conv}vision_stem.1", (192,), (192,))
    before = 192
    for s, (w, depth) in enumerate(zip((192, 384, 768, 1536), (3, 3, 27, 3), strict=True)):
        stage = f"{conv}vision_stages.{s}."
        if s:
            both(f"{stage}downsample.0", (before,), (before,))
            both(f"{stage}downsample.1", (w, before, 2, 2), (w,))
        for n in range(depth):
            block = f"{stage}blocks.{n}."
            both(f"{block}conv_dw", (w, 1, 7, 7), (w,))
            both(f"{block}norm", (w,), (w,))
            both(f"{block}mlp.fc1", (4 * w, w), (4 * w,))
            both(f"{block}mlp.fc2", (w, 4 * w), (w,))
            shapes[f"{block}gamma"] = (w,)
        before = w
    return shapes


def test_2b_has_exactly_the_keys_and_shapes_of_the_checkpoint():
    with torch.device("meta"):
        state = build_model(dims_of("mgm_2b")).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == expected_2b_shapes()


def test_2b_turns_a_picture_of_768_px_into_576_tokens():
    with torch.device("meta"):
        tokens = build_model(dims_of("mgm_2b")).encode_pictures(torch.empty(1, 3, 768, 768))
    assert tokens.shape == (1, 576, 2048)


def test_head_is_tied_to_the_embedding(model):
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_head_is_tied_when_values_are_left_to_a_checkpoint():
    dims = dataclasses.replace(TINY, weights="pretrained", path="somewhere")
    model = build_model(dims)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.model.embed_tokens.embed_scale.item() == pytest.approx(128**0.5)


def test_building_in_bf16_keeps_the_rotary_frequencies_in_fp32():
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = build_model(TINY)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32


@pytest.mark.parametrize("seed", [0, 7])
def test_same_seed_gives_the_same_weights(seed):
    states = []
    for _ in range(2):
        torch.manual_seed(seed)
        states.append(build_model(TINY).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_different_seeds_differ_in_every_part(model):
    torch.manual_seed(99)
    other = build_model(TINY).state_dict()
    differing = {part_of(k) for k, v in model.state_dict().items() if not torch.equal(v, other[k])}
    assert differing == {"language_model", *TOWERS, *PROJECTORS}


# -- loss


def test_loss_is_the_sum_over_labelled_tokens(model):
    ids, mask, labels = batch(*TWO)
    shown = pictures(2)
    loss = model(ids, mask, labels, shown)
    logits = model.logits(ids, mask, shown)
    reference = F.cross_entropy(
        logits[:, :-1].reshape(-1, TINY.text.vocab),
        labels[:, 1:].reshape(-1),
        ignore_index=IGNORE_INDEX,
        reduction="sum",
    )
    torch.testing.assert_close(loss, reference)
    assert loss.dtype == torch.float32
    assert loss.shape == ()


def test_loss_of_a_batch_is_the_sum_of_its_samples(model):
    shown = pictures(2)
    whole = model(*batch(*TWO), shown)
    parts = [model(*batch(sample), shown[i : i + 1]) for i, sample in enumerate(TWO)]
    torch.testing.assert_close(whole, torch.stack(parts).sum(), rtol=1e-4, atol=1e-4)


def test_batch_without_labels_has_zero_loss_and_zero_gradients(model):
    ids, mask, labels = batch([2, "x", 5, 6])
    loss = model(ids, mask, torch.full_like(labels, IGNORE_INDEX), pictures(1))
    assert loss.item() == 0
    loss.backward()
    assert all(grad is not None and not grad.any() for grad in gradients(model).values())


def test_head_sees_labelled_positions_only(model):
    ids, mask, labels = batch(*TWO)
    rows = []
    handle = model.lm_head.register_forward_hook(lambda _m, args, _out: rows.append(len(args[0])))
    model(ids, mask, labels, pictures(2))
    handle.remove()
    assert rows == [(labels != IGNORE_INDEX).sum().item()]


def test_bf16_model_gives_an_fp32_loss_near_the_fp32_one(model):
    shown = pictures(2)
    half = build_model(TINY)
    half.load_state_dict(model.state_dict())
    loss = half.bfloat16()(*batch(*TWO), shown)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, model(*batch(*TWO), shown), rtol=0.03, atol=0)


# -- pictures


def embeddings_seen(model, ids, mask, shown):
    seen = []
    handle = model.model.register_forward_pre_hook(
        lambda _m, _args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    model.logits(ids, mask, shown)
    handle.remove()
    return seen[0]


def test_picture_tokens_land_at_their_placeholders(model):
    ids, mask, _ = batch([2, "x", 5, "x", 6], [3, 4, "x", 9])
    shown = pictures(3)
    with torch.no_grad():
        seen = embeddings_seen(model, ids, mask, shown)
        tokens = model.encode_pictures(shown)
        words = model.model.embed_tokens(ids.clamp(min=0))
    assert torch.equal(seen[0, 1 : 1 + N], tokens[0])
    assert torch.equal(seen[0, 2 + N : 2 + 2 * N], tokens[1])
    assert torch.equal(seen[1, 2 : 2 + N], tokens[2])
    is_word = ids != IMAGE_TOKEN_INDEX
    assert torch.equal(seen[is_word], words[is_word])


def test_picture_tokens_are_scaled_like_embedded_text(model):
    inner = model.model
    shown = pictures(2)
    raw = []
    handle = inner.mm_projector.register_forward_hook(lambda _m, _args, out: raw.append(out))
    with torch.no_grad():
        tokens = model.encode_pictures(shown)
    handle.remove()
    torch.testing.assert_close(tokens, raw[0] * TINY.text.hidden**0.5)


def test_random_towers_tell_pictures_apart(model):
    side = TINY.aux.picture_px
    ramp = torch.linspace(-1.5, 1.5, side).expand(3, side, side)
    shown = torch.stack([ramp, ramp.mT, torch.full_like(ramp, -1.5), (9 * ramp).sin()])
    with torch.no_grad():
        features = {
            "clip": model.model.vision_tower(model._shrink(shown)),
            "convnext": model.model.vision_tower_aux(shown),
            "tokens": model.encode_pictures(shown),
        }
    for part, values in features.items():
        between = (values - values.mean(dim=0)).std() / values.std()
        assert between > 0.5, f"{part}: {between:.2f} of the spread is between pictures"


def test_loss_depends_on_the_picture(model):
    ids, mask, labels = batch(TWO[0])
    losses = {round(model(ids, mask, labels, pictures(1)).item(), 3) for _ in range(3)}
    assert len(losses) == 3


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (1, 1, 128, 128), (3, 128, 128)])
def test_pictures_of_another_shape_are_refused(model, shape):
    ids, mask, labels = batch(TWO[0])
    with pytest.raises(InputError, match=r"\[pictures, 3, 128, 128\]"):
        model(ids, mask, labels, torch.zeros(shape))


def test_missing_picture_is_refused(model):
    with pytest.raises(InputError, match="places for 2 pictures but holds 1"):
        model(*batch(*TWO), pictures(1))


# -- gradients


def test_all_but_the_towers_get_a_gradient(model):
    model(*batch(*TWO), pictures(2)).backward()
    trained = gradients(model)
    assert {part_of(name) for name in trained} == {"language_model", *PROJECTORS}
    assert all(grad is not None and grad.any() for grad in trained.values())


def test_text_only_batch_gives_the_projectors_gradients_of_zeros(model):
    loss = model(*batch([2, 5, 6, 7, 8, 1]), pictures(0))
    loss.backward()
    assert loss > 0
    for name, grad in gradients(model).items():
        assert grad is not None, name
        assert grad.any() == (part_of(name) not in PROJECTORS), name


def test_text_only_batch_has_the_loss_of_plain_text(model):
    ids, mask, labels = batch([2, 5, 6, 7, 8, 1])
    hidden = model.model(input_ids=ids, attention_mask=mask).last_hidden_state
    plain = F.cross_entropy(
        model.lm_head(hidden)[0, :-1], labels[0, 1:], reduction="sum", ignore_index=IGNORE_INDEX
    )
    torch.testing.assert_close(model(ids, mask, labels, pictures(0)), plain)


def test_gradient_checkpointing_gives_the_same_gradients():
    model = build_model(TINY).train()
    shown = pictures(2)
    runs = []
    for layer in (model.model.layers[0].mlp, model.model.vision_tower):
        layer.register_forward_pre_hook(lambda module, _args: runs.append(type(module).__name__))
    model(*batch(*TWO), shown).backward()
    plain = {name: grad.clone() for name, grad in gradients(model).items()}
    model.zero_grad()
    model.activation_checkpointing_enable()
    model(*batch(*TWO), shown).backward()
    for name, grad in gradients(model).items():
        torch.testing.assert_close(grad, plain[name], msg=name)
    # Once, then once more with the layer run again in the backward pass; the tower never is.
    assert runs == ["ClipTower", "GemmaMLP"] * 2 + ["GemmaMLP"]


def test_towers_stay_in_evaluation_mode(model):
    model.train()
    assert model.training
    assert not any(m.training for m in model.model.vision_tower.modules())
    assert not any(m.training for m in model.model.vision_tower_aux.modules())
