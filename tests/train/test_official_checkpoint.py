"""MGM-2B as it was released loads: its keys, its shapes, its two shards with an index."""

from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
import torch
from official import HEAD, in_shards, official_shapes, write_official
from omegaconf import OmegaConf

from hpcjobs.run.errors import InputError
from hpcjobs.run.model_config import Model
from hpcjobs.run.schema import build
from hpcjobs.train.mgm.model import build_model
from hpcjobs.train.weights import load_weights

CONF = Path(__file__).parents[2] / "conf" / "model"
MGM_2B, TINY = (
    build(Model, OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml")))
    for name in ("mgm_2b", "mgm_tiny")
)
SHARD_BYTES = 5e9  # transformers' default


def test_the_released_keys_and_shapes_are_the_models():
    with torch.device("meta"):
        model = build_model(MGM_2B)
    ours = {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False)}
    assert ours == official_shapes(MGM_2B)


def test_the_released_files_have_the_published_sizes():
    """7.09 GB in files of 4.95 and 2.14 GB: the head beside the embedding, and both towers."""
    shapes = official_shapes(MGM_2B)
    numbers = sum(prod(shape) for shape in shapes.values())
    assert numbers == 3_019_166_144 + 256_000 * 2048 == 3_543_454_144
    shards = in_shards(shapes, SHARD_BYTES)
    sizes = [sum(2 * prod(shapes[key]) for key in keys) for keys in shards]
    assert [round(size / 1e9, 2) for size in sizes] == [4.95, 2.14]


@pytest.mark.parametrize("older", [False, True], ids=["", "with buffers of older versions"])
def test_a_checkpoint_in_the_released_layout_loads(tmp_path, older):
    written = write_official(tmp_path / "mgm", TINY, older=older)
    dims = replace(TINY, weights="pretrained", path=str(tmp_path / "mgm"))
    model = build_model(dims)
    load_weights(model, tmp_path / "mgm")
    loaded = dict(model.named_parameters(remove_duplicate=False))
    assert loaded.keys() == written.keys()
    for key, value in written.items():
        assert torch.equal(loaded[key], value.float()), key
    assert loaded[HEAD] is loaded["model.embed_tokens.weight"]


def test_parameters_are_complete_one_after_another_and_only_one_rank_reads(tmp_path):
    """What ZeRO-3 divides at once, and what other ranks are sent, is each parameter once."""
    written = write_official(tmp_path / "mgm", TINY)
    model, settled = build_model(TINY), []
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    load_weights(model, tmp_path / "mgm", settled.append, reads=False)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    assert len(settled) == len(written) - 1 == len({id(parameter) for parameter in settled})


def test_a_head_of_its_own_is_refused_whichever_file_it_lies_in(tmp_path):
    from safetensors.torch import load_file, save_file

    write_official(tmp_path / "mgm", TINY)
    path = tmp_path / "mgm" / "model-00002-of-00002.safetensors"
    tensors = load_file(path)
    save_file({**tensors, HEAD: tensors[HEAD] * 2}, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"differs from model\.embed_tokens\.weight"):
        load_weights(build_model(TINY), tmp_path / "mgm")
