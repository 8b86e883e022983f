"""What a method trains, held against PEFT and against published counts."""

import pytest
from meta_models import build
from peft import LoraConfig, get_peft_model

from planner.errors import PlannerError
from planner.models.presets import preset
from planner.models.read import architecture_of
from planner.models.trainable import lora_linears, tower_linears, trainable_of
from planner.workload import Method

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


@pytest.mark.parametrize(
    ("model", "rank", "count"),
    [
        ("gemma-2b", 16, 19_611_648),
        ("llama-7b", 16, 39_976_960),
        ("mistral-7b", 64, 167_772_160),
        ("llama-3.1-8b", 16, 41_943_040),
    ],
)
def test_all_linear_adapters_have_the_published_size(model, rank, count):
    found = trainable_of(architecture_of(model), Method(kind="lora", r=rank))
    assert found.total == found.adapters == count


def test_mgm_trains_adapters_projector_and_mining():
    found = trainable_of(architecture_of("mgm-2b"), Method(kind="lora", r=16))
    assert found.components["adapters"] == 19_611_648
    assert found.components["projector"] == 13_259_008
    assert found.total == 32_870_656


@pytest.mark.parametrize(
    ("model", "targets", "theirs"),
    [
        ("qwen2.5-0.5b", "all-linear", "all-linear"),
        ("gemma-2-2b", "attention", ATTENTION),
        ("llama-3.2-1b", ("q_proj", "v_proj"), ["q_proj", "v_proj"]),
        ("phi-1.5", "mlp", ["fc1", "fc2"]),
        ("gpt2", "all-linear", "all-linear"),
        ("gpt2", ("c_proj",), ["c_proj"]),
        ("pythia-160m", "attention", ["query_key_value", "dense"]),
        ("phi-3-mini", "all-linear", "all-linear"),
    ],
)
def test_adapters_are_as_many_as_pefts(model, targets, theirs):
    peft = get_peft_model(build(preset(model), "causal"), LoraConfig(r=8, target_modules=theirs))
    expected = sum(p.numel() for p in peft.parameters() if p.requires_grad)
    method = Method(kind="lora", r=8, targets=targets)
    assert trainable_of(architecture_of(model), method).adapters == expected


def test_attention_and_mlp_part_all_linear_in_every_family():
    for model in ("gpt2", "qwen-7b", "falcon-7b", "chatglm3-6b", "baichuan2-7b", "mixtral-8x7b"):
        architecture = architecture_of(model)
        parts = [
            trainable_of(architecture, Method(kind="lora", targets=targets)).adapters
            for targets in ("attention", "mlp", "all-linear")
        ]
        assert parts[0] > 0
        assert parts[1] > 0
        assert parts[0] + parts[1] == parts[2], model


def test_full_fine_tuning_trains_every_parameter_of_the_language_model():
    architecture = architecture_of("llava-1.5-7b")
    full = trainable_of(architecture, Method(kind="full"), "trainable")
    assert full.total == architecture.parameters
    frozen = trainable_of(architecture, Method(kind="full"), "frozen")
    assert full.total - frozen.total == frozen.components["towers"] + 303_507_456


def test_a_frozen_projector_is_left_out_and_a_projector_run_trains_only_it():
    architecture = architecture_of("llava-1.5-7b")
    without = trainable_of(architecture, Method(kind="lora", train_projector=False))
    assert without.total == without.adapters
    assert trainable_of(architecture, Method(kind="projector")).total == 20_979_712


def test_embeddings_and_head_count_once_where_they_are_tied():
    both = Method(kind="lora", train_embeddings=True, train_head=True)
    tied = trainable_of(architecture_of("gemma-2b"), both)
    assert (tied.embeddings, tied.head) == (256_000 * 2048, 0)
    apart = trainable_of(architecture_of("qwen-7b"), both)
    assert apart.embeddings == apart.head == 151_936 * 4096


def test_adapters_in_towers_cover_their_linears():
    architecture = architecture_of("llava-1.5-7b")
    found = trainable_of(architecture, Method(kind="lora", r=8), "lora")
    layer = 8 * (4 * (1024 + 1024) + 2 * (1024 + 4096))
    assert found.tower_adapters == 24 * layer
    assert sum(count for count, _ in tower_linears(architecture)) == 24 * 6


def test_a_target_that_no_layer_has_is_named_with_those_that_there_are():
    with pytest.raises(PlannerError, match=r"c_attn.*write all-linear.*down_proj") as caught:
        lora_linears(architecture_of("llama-7b"), Method(kind="lora", targets=("c_attn",)))
    assert "\n" not in str(caught.value)
