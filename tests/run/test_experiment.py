"""Impossible combinations are refused before anything is written or submitted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcjobs.run.cluster_config import Cluster, slurm_time_s
from hpcjobs.run.errors import ConfigError
from hpcjobs.run.experiment import Experiment
from hpcjobs.run.schema import build, plain

TINY = {
    "name": "tiny",
    "model": {
        "kind": "mgm",
        "weights": "random",
        "max_length": 128,
        "text": {
            "hidden": 32, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 16,
            "intermediate": 64, "vocab": 300, "max_positions": 256,
        },
        "vision": {
            "hidden": 32, "layers": 2, "heads": 2, "intermediate": 64, "picture_px": 32, "patch_px": 8,
        },
        "aux": {"widths": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "picture_px": 64},
    },
    "data": {"root": "/data"},
    "method": {"kind": "lora"},
    "parallel": {"zero_stage": 2, "nodes": 2, "gpus_per_node": 2, "micro_batch": 2},
    "train": {"global_batch": 16, "lr": 1e-3, "steps": 10},
}  # fmt: skip


def with_changes(**changes):
    """The tiny experiment with dotted keys replaced; dots are written as double underscores."""
    raw = {k: dict(v) if isinstance(v, dict) else v for k, v in TINY.items()}
    for dotted, value in changes.items():
        *path, last = dotted.split("__")
        target = raw
        for part in path:
            target[part] = dict(target.get(part, {}))
            target = target[part]
        target[last] = value
    return raw


def test_the_accumulation_follows_from_the_global_batch():
    assert build(Experiment, TINY).grad_accum == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train__global_batch": 18}, ["train.global_batch is 18", "write train.global_batch=16"]),
        ({"train__global_batch": 2}, ["micro batch 2 x accumulation 1 x world size 4 = 8"]),
        ({"parallel__grad_accum": 3}, ["= 24", "write parallel.grad_accum=2"]),
        ({"cluster__gpu_type": "v100"}, ["v100 has no bf16", "train.precision=fp16"]),
        ({"cluster__gpu_type": "rtx2080"}, ["rtx2080 has no bf16"]),
        ({"train__precision": "fp16", "parallel__device": "cpu"}, ["fp16 does not train on a CPU"]),
        ({"cluster__time": "2:00", "cluster__signal_lead_s": 120}, ["signal_lead_s", "shorter than"]),
        ({"cluster__time": "soon"}, ["time 'soon' is none of"]),
        ({"cluster__time": "0"}, ["is zero"]),
        ({"cluster__sbatch": {"nodes": 3}}, ["sbatch.nodes is written by hpcjobs"]),
        ({"cluster__sbatch": {"--mem": "3"}}, ["no long option"]),
        ({"cluster__sbatch": {"comment": "a\nb"}}, ["control character"]),
        ({"cluster__partition": "a\n#SBATCH --x"}, ["control character"]),
        ({"cluster__env": {"HF_TOKEN": "abc"}}, ["looks like a secret", "cluster.env_file"]),
        ({"cluster__env": {"A B": "abc"}}, ["no variable name"]),
        ({"name": "a b"}, ["name must be"]),
        ({"name": "../x"}, ["name must be"]),
        ({"train__epochs": 1.0}, ["exactly one of epochs and steps"]),
        ({"train__warmup_ratio": 1.0}, ["warmup_ratio must be less than 1"]),
        ({"method__targets": "("}, ["no regular expression"]),
        ({"method__dropout": 1.0}, ["dropout must be less than 1"]),
        ({"parallel__zero_stage": 4}, ["must be one of 0, 1, 2, 3, not 4"]),
        ({"parallel__zero_stage": 0, "parallel__offload_optimizer": "cpu"}, ["write parallel=zero1"]),
        ({"parallel__offload_params": "cpu"}, ["write parallel=zero3"]),
        ({"parallel__zero_stage": 3, "parallel__offload_params": "cpu"},
         ["write parallel.offload_optimizer=cpu too"]),
        ({"model__vision__picture_px": 33}, ["multiple of patch_px"]),
        ({"model__aux__picture_px": 96, "model__vision__picture_px": 40}, ["multiple of the CLIP grid"]),
        ({"model__aux__picture_px": 100}, ["multiple of 32"]),
        ({"model__max_length": 10}, ["max_length must be greater than 16"]),
        ({"model__weights": "pretrained"}, ["path is not set"]),
    ],
)  # fmt: skip
def test_an_impossible_combination_says_what_to_write(changes, words):
    with pytest.raises(ConfigError) as error:
        build(Experiment, with_changes(**changes))
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_the_saved_form_is_read_back_equal():
    experiment = build(Experiment, TINY)
    assert build(Experiment, plain(experiment)) == experiment


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 1800), ("1:30", 90), ("2:00:00", 7200), ("1-0", 86400), ("1-2:30", 95400),
     ("1-2:30:15", 95415)],
)  # fmt: skip
def test_every_form_of_slurms_time_limit_is_read(text, seconds):
    assert slurm_time_s(text) == seconds


@given(st.text(max_size=12))
def test_any_time_text_is_read_or_refused(text):
    try:
        assert slurm_time_s(text) > 0
    except ConfigError as error:
        assert "time" in str(error)


def test_a_variable_with_an_ordinary_name_is_allowed():
    assert Cluster(env={"NCCL_DEBUG": "INFO"}).env == {"NCCL_DEBUG": "INFO"}
