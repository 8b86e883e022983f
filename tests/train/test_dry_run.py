"""The dry run measures what a real process holds, and says in one line what it cannot do."""

import json
import os
import socket
import subprocess
import sys

import pytest

TEXT = {
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 256,
    "vocab_size": 1000,
}
VISION = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": 56,
    "patch_size": 14,
}
LLAMA = {"model_type": "llama", **TEXT}
LLAVA = {
    "model_type": "llava",
    "text_config": LLAMA,
    "vision_config": {"model_type": "clip_vision_model", **VISION},
    "image_token_id": 999,
    "image_token_index": 999,
}
MGM = {
    "model_type": "mgm",
    "text": {
        "hidden": 64, "layers": 2, "heads": 4, "kv_heads": 1, "head_dim": 16,
        "intermediate": 128, "vocab": 640, "max_positions": 512,
    },
    "vision": {
        "hidden": 64, "layers": 3, "heads": 4, "intermediate": 128, "picture_px": 56,
        "patch_px": 14,
    },
    "aux": {"widths": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "picture_px": 64},
}  # fmt: skip
# A real rank: the same program on tensors that have memory, with gloo between two processes.
REAL = """
import json, os, sys, warnings
warnings.simplefilter("ignore")
os.environ["DS_ACCELERATOR"] = "cpu"
import torch
from torch import distributed as dist
from hpcjobs.train.dry_run.group import start_deepspeed
from hpcjobs.train.dry_run.measure import measure
from hpcjobs.train.dry_run.request import read_request
torch.set_num_threads(1)
dist.init_process_group("gloo")
start_deepspeed()
answer = measure(read_request(json.loads(sys.argv[1])), fake=False)
print("ANSWER" + json.dumps(answer), flush=True)
dist.barrier()
os._exit(0)
"""


def request(config=LLAMA, **words):
    base = {"config": config, "method": {"kind": "lora"}, "seq_len": 128, "micro_batch": 2}
    # A bucket of the default size would hide everything else in a model as small as these.
    return {**base, "sharding": "zero2", "gpus": 2, "reduce_bucket": 100_000, **words}


def dry_run(words):
    return subprocess.run(
        [sys.executable, "-m", "hpcjobs.train.dry_run", "-"],
        input=json.dumps(words), capture_output=True, text=True,
    )  # fmt: skip


def dry(words):
    done = dry_run(words)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def real(words):
    """Rank 0 of two real processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", REAL, json.dumps(words)],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    outputs = [rank.communicate(timeout=200) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], outputs[0][1][-2000:]
    lines = outputs[0][0].splitlines()
    return json.loads(next(line for line in lines if line.startswith("ANSWER"))[6:])


CASES = {
    "lora zero0": request(sharding="zero0"),
    "lora zero1 accumulating": request(sharding="zero1", grad_accum=2),
    "lora zero2 eager": request(attention="eager", grad_ckpt={"language_model": False}),
    "full zero2": request(method={"kind": "full"}),
    "full zero3": request(method={"kind": "full"}, sharding="zero3"),
    "llava lora zero3": request(LLAVA, sharding="zero3"),
    "mgm lora zero2": request(MGM, method={"kind": "lora", "dropout": 0.1}, seq_len=64),
}


@pytest.mark.slow  # every case is two training processes of several seconds each
@pytest.mark.parametrize("name", CASES)
def test_fake_tensors_take_what_real_ones_take(name):
    words = CASES[name]
    fake, true = dry(words), real(words)
    assert fake["parameters"] == true["parameters"]
    assert fake["trainable"] == true["trainable"]
    for phase, figures in true["phases"].items():
        for key, value in figures.items():
            assert fake["phases"][phase][key] == pytest.approx(value, rel=0.01), (phase, key)


def test_a_peak_is_traced_to_its_makers():
    answer = dry(request(method={"kind": "full"}, sharding="none", gpus=1))
    assert answer["peak_bytes"] == max(
        answer["phases"][phase]["peak_bytes"] for phase in ("forward", "backward", "step")
    )
    assert sum(group["bytes"] for group in answer["largest"]) > 0.95 * answer["peak_bytes"]
    states = next(group for group in answer["largest"] if group["where"] == "adam.py:_init_group")
    assert states["bytes"] >= 4 * answer["trainable"]  # both moments, in bf16


def test_checkpointing_and_sharding_lower_the_peak():
    peaks = [
        dry(request(sharding=sharding, gpus=4, grad_ckpt={"language_model": checkpointed}))
        for sharding, checkpointed in (("zero2", False), ("zero2", True))
    ]
    assert peaks[1]["peak_bytes"] < peaks[0]["peak_bytes"]


@pytest.mark.slow  # four models in turn, each with all that a training imports
def test_the_square_of_the_length_is_held_by_eager_attention_alone():
    def growth(attention):
        short, long = (
            dry(request(seq_len=length, sharding="none", gpus=1, attention=attention,
                        grad_ckpt={"language_model": False}))["peak_bytes"]
            for length in (256, 512)
        )  # fmt: skip
        return long / short

    assert growth("sdpa") < 2.0 < growth("eager")


@pytest.mark.slow  # a model of 7 billion parameters takes half a minute
def test_seven_billion_parameters_take_less_than_a_gib():
    llama_7b = {
        "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "intermediate_size": 11008,
        "vocab_size": 32000,
    }  # fmt: skip
    answer = dry(request(llama_7b, seq_len=2048, gpus=8, micro_batch=1, reduce_bucket=None))
    assert answer["parameters"] == 6_738_415_616 + 39_976_960
    assert answer["rss_bytes"] < 1 << 30
    assert answer["seconds"] < 120


BAD = {
    "nothing to read": ("", "no JSON"),
    "no config": ("{}", "the field config"),
    "an unknown field": (request(seq=1), "seq"),
    "an unknown family": (request({"model_type": "no_such"}), "no_such"),
    "fsdp": (request(sharding="fsdp"), "fsdp is not traced"),
    "no layer of that name": (request(method={"kind": "lora", "targets": "x_proj"}), "x_proj"),
    "nothing to train": (request(method={"kind": "projector"}), "trains nothing"),
    "two processes without sharding": (request(sharding="none"), "one card"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_one_line(name):
    words, said = BAD[name]
    done = subprocess.run(
        [sys.executable, "-m", "hpcjobs.train.dry_run", "-"],
        input=words if isinstance(words, str) else json.dumps(words),
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert said in last
