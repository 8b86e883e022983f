"""A run starts from another result or adapter: all of it, fitting exactly, or not at all."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from hpcjobs.run.errors import InputError
from hpcjobs.run.experiment import Method
from hpcjobs.run.model_config import Model
from hpcjobs.run.schema import build
from hpcjobs.train.export import export_result
from hpcjobs.train.method import apply_method, trainable_parameters
from hpcjobs.train.mgm.model import build_model
from hpcjobs.train.warm_start import warm_start

CONF = Path(__file__).parents[2] / "conf" / "model" / "mgm_tiny.yaml"
TINY = build(Model, OmegaConf.to_container(OmegaConf.load(CONF)))
LORA, PROJECTOR, FULL = (build(Method, {"kind": kind}) for kind in ("lora", "projector", "full"))


def trained(method, seed):
    torch.manual_seed(seed)
    module = apply_method(build_model(TINY), method)
    with torch.no_grad():
        for parameter in trainable_parameters(module).values():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return module


def values(module):
    return {name: value.detach().clone() for name, value in trainable_parameters(module).items()}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What a LoRA training and a training of the projector left behind."""
    root, modules = tmp_path_factory.mktemp("results"), {}
    for name, method in (("lora", LORA), ("projector", PROJECTOR)):
        modules[name] = trained(method, seed=1)
        export_result(modules[name], TINY, method, root / name)
    return root, modules


@pytest.fixture
def lora_result(results, tmp_path):
    """A copy that may be broken."""
    return Path(shutil.copytree(results[0] / "lora", tmp_path / "start"))


def test_a_result_is_taken_as_a_whole(results):
    root, modules = results
    module = trained(LORA, seed=2)
    files = warm_start(module, LORA, root / "lora")
    for name, value in values(modules["lora"]).items():
        assert torch.equal(value, trainable_parameters(module)[name]), name
    assert sorted(files) == ["adapter/adapter_model.safetensors", "projector.safetensors"]
    assert all(len(digest) == 64 for digest in files.values())


def test_a_plain_adapter_leaves_the_projector_as_it_is(results):
    root, modules = results
    module = trained(LORA, seed=2)
    before = values(module)
    warm_start(module, LORA, root / "lora" / "adapter")
    after, given = values(module), values(modules["lora"])
    for name in after:
        assert torch.equal(after[name], (given if ".lora_" in name else before)[name]), name


@pytest.mark.parametrize("method", [LORA, FULL, PROJECTOR], ids=lambda method: method.kind)
def test_a_projector_starts_every_method(results, method):
    root, modules = results
    module = trained(method, seed=2)
    before, given = values(module), values(modules["projector"])
    warm_start(module, method, root / "projector")
    for name, value in values(module).items():
        plain = name.removeprefix("base_model.model.")
        assert torch.equal(value, given.get(plain, before[name])), name


def change_config(**changes):
    def change(directory):
        path = directory / "adapter" / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def change_tensors(name, change_one):
    def change(directory):
        path = directory / name
        tensors = load_file(path)
        change_one(tensors)
        save_file(tensors, path)

    return change


ADAPTER, PROJECTOR_FILE = "adapter/adapter_model.safetensors", "projector.safetensors"
Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def tear(directory):
    path = directory / ADAPTER
    path.write_bytes(path.read_bytes()[:-8])


def only_pickles(directory):
    (directory / PROJECTOR_FILE).unlink()
    (directory / ADAPTER).rename(directory / "adapter" / "adapter_model.bin")


@pytest.mark.parametrize(
    ("change", "method", "said"),
    [
        (change_config(r=8), LORA, "its r is 8: write method.rank=8"),
        (change_config(lora_alpha=64), LORA, "its lora_alpha is 64: write method.alpha=64"),
        (change_config(use_dora=True), LORA, "sets use_dora"),
        (change_tensors(ADAPTER, lambda t: t.pop(Q)), LORA, f"1 missing ({Q})"),
        (change_tensors(ADAPTER, lambda t: t.update({"x": t[Q].clone()})), LORA,
         "1 not trained here (x)"),
        (change_tensors(ADAPTER, lambda t: t.update({Q: t[Q][:, :-1].clone()})), LORA,
         f"1 of another shape ({Q} [16, 127] instead of [16, 128])"),
        (change_tensors(PROJECTOR_FILE, lambda t: t.pop("model.mm_projector.0.bias")), LORA,
         "1 missing (model.mm_projector.0.bias)"),
        (lambda _: None, FULL, "it holds an adapter, and method=full trains none"),
        (lambda _: None, build(Method, {"kind": "lora", "train_projector": False}),
         "16 not trained here (model.mm_projector.0.bias"),
        (lambda _: None, build(Method, {"kind": "lora", "targets": r"model\.layers\.\d+\.mlp\..*_proj"}),
         "not trained here"),
        (tear, LORA, "cannot read adapter_model.safetensors"),
        (only_pickles, LORA, "there is no adapter_model.safetensors"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line_and_changes_nothing(lora_result, change, method, said):
    change(lora_result)
    module = trained(method, seed=2)
    before = values(module)
    with pytest.raises(InputError) as caught:
        warm_start(module, method, lora_result)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in values(module).items())
