"""Weights are read completely and exactly, or not at all."""

import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from hpcjobs.run.errors import InputError
from hpcjobs.run.model_config import Model
from hpcjobs.run.schema import build
from hpcjobs.train.export import write_shards
from hpcjobs.train.mgm.model import build_model
from hpcjobs.train.mgm.names import EMBEDDING, LM_HEAD
from hpcjobs.train.weights import INDEX_NAME, SINGLE_NAME, check_model_dir, load_weights

CONF = Path(__file__).parents[2] / "conf" / "model" / "mgm_tiny.yaml"
TINY = build(Model, OmegaConf.to_container(OmegaConf.load(CONF)))


def new_model(seed):
    torch.manual_seed(seed)
    return build_model(TINY)


@pytest.fixture(scope="module")
def weights():
    return {key: value.clone() for key, value in new_model(0).state_dict().items()}


@pytest.fixture(scope="module")
def model():
    return new_model(1)


def equal(model, weights):
    state = model.state_dict()
    return all(torch.equal(state[key], value) for key, value in weights.items())


def without_head(weights):
    return {key: value for key, value in weights.items() if key != LM_HEAD}


@pytest.mark.parametrize("head", [True, False], ids=["with lm_head", "without lm_head"])
def test_single_file_is_read(tmp_path, weights, head):
    save_file(weights if head else without_head(weights), tmp_path / SINGLE_NAME)
    model = new_model(2)
    load_weights(model, tmp_path)
    assert equal(model, weights)


@pytest.mark.parametrize("head", [True, False], ids=["with lm_head", "without lm_head"])
def test_shards_are_read(tmp_path, weights, head):
    write_shards(weights if head else without_head(weights), tmp_path, shard_bytes=500_000)
    assert len(check_model_dir(tmp_path)) > 3
    model = new_model(2)
    load_weights(model, tmp_path)
    assert equal(model, weights)


def test_values_take_the_dtype_of_the_model(tmp_path, weights):
    save_file({k: v.bfloat16() for k, v in weights.items()}, tmp_path / SINGLE_NAME)
    model = new_model(2)
    load_weights(model, tmp_path)
    assert model.lm_head.weight.dtype == torch.float32
    assert torch.equal(model.lm_head.weight, weights[LM_HEAD].bfloat16().float())


def test_model_left_empty_for_a_checkpoint_is_filled(tmp_path, weights):
    save_file(weights, tmp_path / SINGLE_NAME)
    dims = build(
        Model,
        {
            **OmegaConf.to_container(OmegaConf.load(CONF)),
            "weights": "pretrained",
            "path": str(tmp_path),
        },
    )
    model = build_model(dims)
    load_weights(model, tmp_path)
    assert equal(model, weights)


def drop(weights, key):
    del weights[key]


def add(weights, key):
    weights[key] = torch.zeros(1)


def replace(weights, key, value):
    weights[key] = value


GAMMA = "model.vision_tower_aux.vision_stages.0.blocks.0.gamma"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: drop(w, "model.norm.weight"), r"1 missing \(model\.norm\.weight\)"),
        (lambda w: drop(w, EMBEDDING), r"1 missing \(model\.embed_tokens\.weight\)"),
        (lambda w: add(w, "model.extra"), r"1 unexpected \(model\.extra\)"),
        (lambda w: replace(w, GAMMA, torch.ones(9)), r"1 unfit \(.*gamma \[9\] instead of \[16\]"),
        (lambda w: replace(w, GAMMA, torch.ones(16, dtype=torch.int8)), r"gamma of type I8"),
        (lambda w: replace(w, LM_HEAD, w[LM_HEAD][:9].clone()), r"lm_head\.weight \[9, 128\]"),
        (lambda w: replace(w, LM_HEAD, w[LM_HEAD] + 1), "differs from model.embed_tokens.weight"),
        (
            lambda w: [drop(w, k) for k in list(w) if "vision_tower_aux" in k],
            r"\d+ missing \(model\.vision_tower_aux.* and \d+ more\)",
        ),
    ],
)
def test_anything_but_the_model_itself_is_refused(tmp_path, weights, model, change, message):
    changed = dict(weights)
    change(changed)
    save_file(changed, tmp_path / SINGLE_NAME)
    with pytest.raises(InputError, match=message):
        load_weights(model, tmp_path)


def test_missing_unexpected_and_unfit_keys_are_one_message(tmp_path, weights, model):
    changed = dict(weights)
    drop(changed, "model.norm.weight")
    add(changed, "model.extra")
    replace(changed, GAMMA, torch.ones(9))
    save_file(changed, tmp_path / SINGLE_NAME)
    with pytest.raises(InputError, match=r"1 missing .* 1 unexpected .* 1 unfit") as caught:
        load_weights(model, tmp_path)
    assert "\n" not in str(caught.value)


def test_nothing_is_overwritten_when_a_header_tells(tmp_path, weights):
    changed = dict(weights)
    drop(changed, "model.norm.weight")
    save_file(changed, tmp_path / SINGLE_NAME)
    model = new_model(1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(InputError):
        load_weights(model, tmp_path)
    assert equal(model, before)


def test_same_key_in_two_shards_is_refused(tmp_path, weights, model):
    write_shards(weights, tmp_path, shard_bytes=500_000)
    second = check_model_dir(tmp_path)[1]
    save_file({**load_file(second), EMBEDDING: weights[EMBEDDING]}, second)
    with pytest.raises(InputError, match="is in both"):
        load_weights(model, tmp_path)


@pytest.mark.parametrize("keep_bytes", [0, 4, 1000, -1000])
def test_torn_file_is_refused(tmp_path, weights, model, keep_bytes):
    path = tmp_path / SINGLE_NAME
    save_file(weights, path)
    path.write_bytes(path.read_bytes()[:keep_bytes])
    with pytest.raises(InputError, match=r"cannot read .*model\.safetensors"):
        load_weights(model, tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "../outside.safetensors",
        "/etc/outside.safetensors",
        "sub/inside.safetensors",
        "..",
        "",
        "model.bin",
    ],
)
def test_index_cannot_point_outside(tmp_path, weights, name):
    directory = tmp_path / "model"
    (directory / "sub").mkdir(parents=True)
    for place in (tmp_path / "outside.safetensors", directory / "sub" / "inside.safetensors"):
        save_file(weights, place)
    (directory / INDEX_NAME).write_text(json.dumps({"weight_map": dict.fromkeys(weights, name)}))
    with pytest.raises(InputError, match=r"shards are \.safetensors files beside it"):
        check_model_dir(directory)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "cannot read"),
        ("[]", "no weight_map"),
        ('{"weight_map": {}}', "no weight_map"),
        ('{"weight_map": ["a"]}', "no weight_map"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "gone.safetensors, which is missing"),
        ('{"weight_map": {"a": 3}}', "'3': shards are .safetensors files"),
    ],
)
def test_broken_index_is_refused(tmp_path, index, message):
    (tmp_path / INDEX_NAME).write_text(index)
    with pytest.raises(InputError, match=message):
        check_model_dir(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin"])
def test_pickle_is_refused_with_the_way_out(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80")
    with pytest.raises(InputError, match="convert it to safetensors"):
        check_model_dir(tmp_path)


def test_empty_and_missing_directories_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds neither"):
        check_model_dir(tmp_path)
    with pytest.raises(InputError, match="is no directory"):
        check_model_dir(tmp_path / "nowhere")
