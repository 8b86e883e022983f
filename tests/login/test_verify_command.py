"""Verifying an experiment: a workload in the program's words, and its answer beside our own."""

import json
import subprocess
import sys

import pytest

from hpcjobs.login.verify_command import dry_run_request, measure, verification_of
from hpcjobs.run.errors import ConfigError, InputError
from hpcjobs.train.dry_run.request import read_request
from planner.models.read import architecture_of
from planner.models.trainable import trainable_of
from planner.read_workload import read_workload

LLAMA = {
    "model_type": "llama", "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 256, "vocab_size": 1000,
    "max_position_embeddings": 512, "tie_word_embeddings": False,
}  # fmt: skip


def workload(**words):
    return read_workload({"model": LLAMA, "method": "lora", "seq_len": 128, **words})


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"method": {"kind": "lora", "targets": ["q_proj", "v_proj"], "adapter_dtype": "fp32"}},
        {"method": "full", "sharding": "zero3", "gpus": 16, "reduce_bucket": 1_000_000},
        {"model": "mgm-2b", "images_per_sample": 0.5, "grad_ckpt": {"towers": False}},
        {"seq_len": {"mean": 100, "max": 300}, "attention": "eager", "loss": "no_upcast"},
    ],
)
def test_the_program_reads_what_a_workload_becomes(words):
    asked = workload(**words)
    request = read_request(dry_run_request(asked))
    assert request.seq_len == max(asked.seq_len.values)
    assert (request.sharding, request.gpus) == (asked.sharding, asked.gpus)
    assert request.config["model_type"] in ("llama", "mgm")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"method": "qlora"}, "method qlora"),
        ({"offload": "optimizer", "sharding": "zero2"}, "offload optimizer"),
        ({"optimizer": "lion"}, "optimizer lion"),
        ({"loss": "fused"}, "loss fused"),
        ({"precision": "bf16_autocast"}, "precision bf16_autocast"),
        ({"sharding": "fsdp"}, "sharding fsdp"),
    ],
)
def test_what_no_dry_run_traces_is_refused_by_name(words, said):
    with pytest.raises(ConfigError, match=said):
        dry_run_request(workload(**words))


def test_an_interpreter_that_is_not_there_is_named():
    with pytest.raises(InputError, match=r"cannot run /no/python: .* set cluster.python"):
        measure({}, "/no/python")


def test_a_refusal_of_the_program_is_handed_on():
    with pytest.raises(InputError, match="method is not set"):
        measure({"config": {}, "seq_len": 8}, sys.executable)


def test_measured_and_computed_peak_stand_side_by_side():
    found = verification_of(workload(grad_ckpt=False, micro_batch=4), sys.executable)
    architecture = architecture_of(LLAMA)
    trained = trainable_of(architecture, workload().method).total
    assert found.measured["trainable"] == trained
    assert found.measured["parameters"] == architecture.parameters + trained
    assert found.measured["peak_bytes"] > 0
    assert found.predicted_peak_bytes == max(found.predicted.values())
    assert list(found.phases) == ["forward", "backward", "step"]
    assert max(computed for _, computed in found.phases.values()) == found.predicted_peak_bytes
    assert abs(found.deviation) < 0.2  # a model this small is half rounding; the sweep is strict


def door(*words):
    return subprocess.run(
        [sys.executable, "-m", "planner", "verify", *words], capture_output=True, text=True
    )


@pytest.mark.slow  # the demo's model is traced with all that a training imports
def test_an_experiment_is_verified_from_its_name():
    done = door("+experiment=mgm_lora_demo", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["measured"]["parameters"] == 1_565_472
    assert answer["closed_form"]["peak_bytes"] > 0
    assert answer["deviation"] == pytest.approx(
        answer["closed_form"]["peak_bytes"] / answer["measured"]["peak_bytes"] - 1
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "OVERRIDE"),
        (("+experiment=mgm_lora_dmo",), "did you mean 'mgm_lora_demo'"),
        (("+experiment=mgm_lora_demo", "cluster.python=/no/python"), "cannot run /no/python"),
    ],
)
def test_a_mistake_is_one_line(words, said):
    done = door(*words)
    assert done.returncode in (2, 3)
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
