"""Towers and projectors: what stays, and how high they climb."""

import pytest

from planner.layout import Layout
from planner.memory.vision import convnext_bytes, images_of, vision_of
from planner.models.read import architecture_of
from planner.read_workload import read_workload

ONE = Layout(1.0, 1.0, 1.0, 1.0)


def _vision(batch: float = 1.0, **words: object):
    workload = read_workload({"model": "llava-1.5-7b", "method": "lora", "seq_len": 2048, **words})
    layout = Layout(batch, 1.0, 1.0, 1.0)
    return vision_of(architecture_of(workload.model), workload, layout)


def test_the_high_resolution_features_of_a_picture_take_212_mb() -> None:
    aux = architecture_of("mgm-2b").towers[1]
    features, highest = convnext_bytes(aux, 2)
    assert features == 192 * 192 * 2880 * 2
    assert 2 * features < highest < 3 * features


def test_fractions_of_pictures_round_up_in_a_micro_batch() -> None:
    workload = read_workload(
        {"model": "mgm-2b", "method": "lora", "seq_len": 2048, "images_per_sample": 0.3}
    )
    architecture = architecture_of("mgm-2b")
    assert float(images_of(architecture, workload, ONE)) == 1
    assert float(images_of(architecture, workload, Layout(10.0, 1.0, 1.0, 1.0))) == 3


def test_a_text_model_has_no_pictures() -> None:
    workload = read_workload({"model": "gemma-2b", "method": "lora", "seq_len": 64})
    assert float(images_of(architecture_of("gemma-2b"), workload, ONE)) == 0


def test_pictures_add_up() -> None:
    assert float(_vision(4.0).store) == pytest.approx(4 * float(_vision(1.0).store))


def test_checkpointing_a_trained_tower_keeps_inputs_alone() -> None:
    kept = [
        float(_vision(towers="trainable", grad_ckpt={"language_model": True, "towers": on}).store)
        for on in (False, True)
    ]
    assert kept[0] > 5 * kept[1]
    assert kept[1] == pytest.approx(25 * 577 * 1024 * 2, rel=0.6)


def test_a_frozen_tower_costs_little_beside_a_trained_one() -> None:
    off = {"language_model": True, "towers": False}
    trained = _vision(towers="trainable", grad_ckpt=off)
    assert float(_vision().store) < 0.1 * float(trained.store)
