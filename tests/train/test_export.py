"""Exports are complete or absent, and other tools read them."""

import json
import math
import stat
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from peft import PeftModel
from safetensors.torch import load_file
from transformers import GemmaForCausalLM

from hpcjobs.run.errors import InputError
from hpcjobs.run.experiment import Method
from hpcjobs.run.model_config import Model
from hpcjobs.run.schema import build
from hpcjobs.train.export import export_result, write_shards
from hpcjobs.train.method import apply_method, base_model
from hpcjobs.train.mgm.model import build_model, gemma_config
from hpcjobs.train.mgm.names import LM_HEAD, PROJECTORS, part_of
from hpcjobs.train.weights import INDEX_NAME, load_weights

CONF = Path(__file__).parents[2] / "conf" / "model" / "mgm_tiny.yaml"
TINY = build(Model, OmegaConf.to_container(OmegaConf.load(CONF)))
LORA, FULL, PROJECTOR = (build(Method, {"kind": kind}) for kind in ("lora", "full", "projector"))


def trained(method):
    """A model after some training: no value is where it started, adapters included."""
    torch.manual_seed(0)
    module = apply_method(build_model(TINY), method).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    return module


@pytest.fixture(scope="module")
def lora():
    return trained(LORA)


@pytest.fixture(scope="module")
def lora_result(lora, tmp_path_factory):
    directory = tmp_path_factory.mktemp("lora") / "result"
    export_result(lora, TINY, LORA, directory)
    return directory


def files(directory):
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def projector_keys():
    linear = [f"model.mm_projector.{n}" for n in (0, 2)]
    linear += [
        f"model.vlm_uni_{name}_projector.{n}" for name in ("query", "aux", "val") for n in (0, 1)
    ]
    return {f"{name}.{kind}" for name in linear for kind in ("weight", "bias")}


# -- lora


def test_lora_writes_adapter_projector_and_dimensions(lora_result):
    assert files(lora_result) == {
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "projector.safetensors",
        "model.json",
    }


def test_adapter_has_the_keys_that_peft_writes(lora_result):
    keys = load_file(lora_result / "adapter" / "adapter_model.safetensors").keys()
    attention = [f"self_attn.{name}_proj" for name in "qkvo"]
    layers = [*attention, *(f"mlp.{name}_proj" for name in ("gate", "up", "down"))]
    assert set(keys) == {
        f"base_model.model.model.layers.{n}.{layer}.lora_{side}.weight"
        for n in range(TINY.text.layers)
        for layer in layers
        for side in "AB"
    }


def test_plain_peft_gives_the_same_text_logits_on_a_plain_gemma(lora, lora_result):
    torch.manual_seed(0)
    base = {
        k: v for k, v in build_model(TINY).state_dict().items() if part_of(k) == "language_model"
    }
    gemma = GemmaForCausalLM(gemma_config(TINY.text))
    gemma.load_state_dict(base)
    ids = torch.randint(3, TINY.text.vocab, (2, 12))
    mask = torch.ones_like(ids)
    side = TINY.aux.picture_px
    with torch.no_grad():
        untrained = gemma(input_ids=ids, attention_mask=mask).logits
        loaded = PeftModel.from_pretrained(gemma, str(lora_result / "adapter")).eval()
        theirs = loaded(input_ids=ids, attention_mask=mask).logits
        merged = loaded.merge_and_unload()(input_ids=ids, attention_mask=mask).logits
        ours = lora.logits(ids, mask, torch.zeros(0, 3, side, side))
    torch.testing.assert_close(theirs, ours)
    torch.testing.assert_close(merged, ours, rtol=1e-4, atol=1e-4)
    assert (theirs - untrained).abs().max() > 0.1


def test_adapter_config_is_for_inference_on_a_causal_model(lora_result):
    config = json.loads((lora_result / "adapter" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert config["task_type"] == "CAUSAL_LM"
    assert config["inference_mode"] is True
    assert (config["r"], config["lora_alpha"]) == (LORA.rank, LORA.alpha)


def test_training_goes_on_after_the_export(lora, lora_result):
    assert files(lora_result)
    assert lora.peft_config["default"].inference_mode is False


@pytest.mark.parametrize("method", [LORA, PROJECTOR], ids=["lora", "projector"])
def test_projector_has_16_tensors_under_the_full_models_keys(tmp_path, method):
    module = trained(method)
    export_result(module, TINY, method, tmp_path / "result")
    tensors = load_file(tmp_path / "result" / "projector.safetensors")
    assert set(tensors) == projector_keys()
    assert len(tensors) == 16
    state = base_model(module).state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in tensors.items())


def test_projector_method_writes_no_language_model(tmp_path):
    export_result(trained(PROJECTOR), TINY, PROJECTOR, tmp_path / "result")
    assert files(tmp_path / "result") == {"projector.safetensors", "model.json"}


def test_dimensions_read_back(lora_result):
    assert build(Model, json.loads((lora_result / "model.json").read_text())) == TINY


def test_bf16_stays_bf16(tmp_path):
    module = trained(LORA).bfloat16()
    export_result(module, TINY, LORA, tmp_path / "result")
    for name in ("projector.safetensors", "adapter/adapter_model.safetensors"):
        assert {t.dtype for t in load_file(tmp_path / "result" / name).values()} == {torch.bfloat16}


# -- full


def flattened(module):
    """Makes parameters views into one buffer, as ZeRO 1 and 2 do with their bf16 weights."""
    parameters = list(module.parameters())
    flat = torch.cat([p.detach().reshape(-1) for p in parameters])
    for parameter, part in zip(
        parameters, flat.split([p.numel() for p in parameters]), strict=True
    ):
        parameter.data = part.view_as(parameter)
    return module


@pytest.mark.parametrize("layout", [lambda m: m, flattened], ids=["separate", "one buffer"])
def test_full_export_is_what_load_weights_reads(tmp_path, layout):
    module = layout(trained(FULL))
    export_result(module, TINY, FULL, tmp_path / "result")
    torch.manual_seed(5)
    again = build_model(TINY)
    load_weights(again, tmp_path / "result")
    state = again.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    assert files(tmp_path / "result") == {
        "model-00001-of-00001.safetensors",
        INDEX_NAME,
        "model.json",
    }


def test_full_export_leaves_out_the_tied_head(tmp_path):
    export_result(trained(FULL), TINY, FULL, tmp_path / "result")
    index = json.loads((tmp_path / "result" / INDEX_NAME).read_text())
    assert LM_HEAD not in index["weight_map"]
    assert {part_of(key) for key in index["weight_map"]} > set(PROJECTORS)


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=12), limit=st.integers(8, 100))
def test_shards_hold_every_tensor_once_and_keep_the_limit(tmp_path_factory, sizes, limit):
    directory = tmp_path_factory.mktemp("shards")
    tensors = {f"t{i}": torch.full((size,), i, dtype=torch.int8) for i, size in enumerate(sizes)}
    write_shards(tensors, directory, shard_bytes=limit)
    index = json.loads((directory / INDEX_NAME).read_text())
    shards = {path.name: load_file(path) for path in directory.glob("*.safetensors")}
    found = {key: name for name, shard in shards.items() for key in shard}
    assert found == index["weight_map"]
    assert found.keys() == tensors.keys()
    assert index["metadata"]["total_size"] == sum(sizes)
    for shard in shards.values():
        assert len(shard) == 1 or sum(len(t) for t in shard.values()) <= limit
    assert len(shards) >= math.ceil(sum(sizes) / max(limit, *sizes))


# -- the directory


def test_directories_are_private(lora_result):
    for path in (lora_result, lora_result / "adapter"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_nothing_is_left_beside_the_result(lora_result):
    assert [path.name for path in lora_result.parent.iterdir()] == ["result"]


def test_older_result_and_leftovers_are_replaced(tmp_path):
    for name in ("result", ".result.partial", ".result.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "stale").write_text("x")
    export_result(trained(PROJECTOR), TINY, PROJECTOR, tmp_path / "result")
    assert files(tmp_path) == {"result/projector.safetensors", "result/model.json"}


def test_kill_before_the_rename_leaves_the_older_result(tmp_path, monkeypatch):
    (tmp_path / "result").mkdir()
    (tmp_path / "result" / "older").write_text("x")

    def killed(_path):
        raise KeyboardInterrupt

    monkeypatch.setattr("hpcjobs.train.export._sync_tree", killed)
    with pytest.raises(KeyboardInterrupt):
        export_result(trained(PROJECTOR), TINY, PROJECTOR, tmp_path / "result")
    assert files(tmp_path / "result") == {"older"}


def test_place_that_cannot_be_written_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot write the result"):
        export_result(trained(PROJECTOR), TINY, PROJECTOR, tmp_path / "file" / "result")
    assert files(tmp_path) == {"file"}
