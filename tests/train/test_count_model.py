"""Any architecture can be counted where torch is, and the planner takes the answer."""

import json

import pytest

from hpcjobs.run.errors import HpcjobsError
from hpcjobs.train.count_model import build_model, count, main
from planner.errors import PlannerError
from planner.models.counted import architecture_from_count
from planner.models.presets import preset
from planner.models.read import architecture_of
from planner.models.trainable import trainable_of
from planner.workload import Method

SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 200,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def write(directory, content):
    (directory / "config.json").write_text(json.dumps(content))
    return directory


def counted(directory, content):
    answer = count(build_model(write(directory, content)))
    return architecture_from_count(json.loads(json.dumps(answer)))


@pytest.mark.parametrize(
    "content",
    [
        {"model_type": "olmo2", **SMALL},
        {"model_type": "granite", **SMALL},
        {"model_type": "olmoe", **SMALL},
        {"model_type": "glm4", **SMALL},
        {"model_type": "jamba", **SMALL},
        {"model_type": "t5"},
        {"model_type": "mllama"},
        {"model_type": "idefics3"},
        {"model_type": "got_ocr2"},
    ],
    ids=lambda content: content["model_type"],
)
def test_an_architecture_that_no_table_has_is_counted_exactly(tmp_path, content):
    model = build_model(write(tmp_path, content))
    architecture = architecture_from_count(json.loads(json.dumps(count(model))))
    assert architecture.parameters == sum(p.numel() for p in model.parameters())
    assert architecture.exact
    assert "counted" in architecture.name
    assert architecture.language_model.layers > 0
    assert trainable_of(architecture, Method(kind="lora")).adapters > 0


@pytest.mark.parametrize(
    "name",
    ["llama-3.2-1b", "gpt2", "falcon-40b", "mixtral-8x7b", "qwen2.5-vl-7b", "llava-1.5-7b"],
)
def test_counting_finds_what_the_tables_say(tmp_path, name):
    """Layer by layer, where both ways are open: the walk over modules needs no table."""
    ours, walked = architecture_of(name), counted(tmp_path, preset(name))
    assert list(walked.components.values()) == list(ours.components.values())
    assert walked.language_model.embeddings == ours.language_model.embeddings
    assert walked.language_model.final == ours.language_model.final
    for field in ("hidden", "heads", "layers", "norm", "norms_per_layer", "gated", "qk_norm"):
        assert getattr(walked.language_model, field) == getattr(ours.language_model, field), field


def test_the_planner_names_the_command_and_then_takes_its_answer(tmp_path, capsys):
    write(tmp_path, {"model_type": "glm4", **SMALL})
    with pytest.raises(PlannerError, match=r"'glm4' is not known.*hpcjobs.train.count_model"):
        architecture_of(str(tmp_path))
    assert main([str(tmp_path)]) == 0
    answer = capsys.readouterr().out
    (tmp_path / "planner_count.json").write_text(answer)
    found = architecture_of(str(tmp_path))
    assert found.name == "glm4 (counted on the meta device)"
    assert found.parameters == json.loads(answer)["parameters"]


def test_a_count_of_another_model_or_a_damaged_one_is_refused(tmp_path):
    write(tmp_path, {"model_type": "glm4", **SMALL})
    answer = count(build_model(tmp_path))
    file = tmp_path / "planner_count.json"
    for change, words in (
        ({"model_type": "granite"}, "counts 'granite', but"),
        ({"version": 99}, "a count of version 99"),
        ({"parameters": 5}, "not 5: count the model again"),
        ({"towers": 5}, "the count is damaged"),
    ):
        file.write_text(json.dumps(answer | change))
        with pytest.raises(PlannerError, match=words):
            architecture_of(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        ({"model_type": "no-such-type"}, "transformers builds no model"),
        ({"model_type": "llama", "vocab_size": "many"}, "transformers builds no model"),
        ({"model_type": "clip_vision_model"}, "no token embeddings"),
        ({"model_type": "resnet"}, "no token embeddings"),
    ],
)
def test_what_cannot_be_counted_ends_in_one_line(tmp_path, capsys, content, words):
    if content is not None:
        write(tmp_path, content)
    assert main([str(tmp_path)]) > 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ")
    assert words in said
    with pytest.raises(HpcjobsError):
        count(build_model(tmp_path))


def test_the_program_says_how_to_call_it(capsys):
    assert main([]) == 2
    assert "usage: python -m hpcjobs.train.count_model" in capsys.readouterr().err
