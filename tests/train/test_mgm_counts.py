"""The published sizes of MGM-2B, counted without its memory."""

import io
import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from hpcjobs.run.experiment import Method
from hpcjobs.run.model_config import Model
from hpcjobs.run.schema import build
from hpcjobs.train.mgm.counts import count_parts, count_trainable, main

CONF = Path(__file__).parents[2] / "conf" / "model"
RAW = OmegaConf.to_container(OmegaConf.load(CONF / "mgm_2b.yaml"))
MGM_2B = build(Model, RAW)

PARTS = {
    "language_model": 2_506_172_416,
    "vision_tower": 303_507_456,
    "vision_tower_aux": 196_227_264,
    "mm_projector": 6_295_552,
    "vlm_uni_query_projector": 1_051_648,
    "vlm_uni_aux_projector": 2_955_904,
    "vlm_uni_val_projector": 2_955_904,
}


def test_parts_of_the_2b_model():
    assert count_parts(MGM_2B) == PARTS
    assert sum(PARTS.values()) == 3_019_166_144


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ({"kind": "lora", "rank": 16, "train_projector": False}, 19_611_648),
        ({"kind": "lora", "rank": 16}, 32_870_656),
        ({"kind": "lora", "rank": 32, "train_projector": False}, 2 * 19_611_648),
        ({"kind": "projector"}, 13_259_008),
        ({"kind": "full"}, 2_506_172_416 + 13_259_008),
        ({"kind": "full", "train_projector": False}, 2_506_172_416),
    ],
)
def test_what_a_method_trains(method, parameters):
    assert count_trainable(MGM_2B, build(Method, method)) == parameters


def test_command_answers_in_json(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(RAW)))
    assert main(["-"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["parts"] == PARTS
    assert answer["total"] == 3_019_166_144
    assert answer["trainable"]["lora"] == 32_870_656


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [(None, 3, "cannot read"), ("{", 3, "cannot read"), ('{"kind": "mgm"}', 2, "is not set")],
)
def test_command_refuses_a_broken_file(tmp_path, capsys, content, code, message):
    path = tmp_path / "model.json"
    if content is not None:
        path.write_text(content)
    assert main([str(path)]) == code
    assert message in capsys.readouterr().err


def test_command_says_how_to_call_it(capsys):
    assert main([]) == 2
    assert "usage" in capsys.readouterr().err
