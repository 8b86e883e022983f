"""Bytes that one layer keeps, against what a storage tracker measured on transformers' layers.

Measured once on fake tensors, 2048 tokens, batch 1, bf16: in units of tokens x hidden size.
"""

import pytest

from planner.memory.recorded import bytes_of, recorded_layer
from planner.memory.specs import decoder_specs
from planner.models.read import architecture_of
from planner.read_workload import read_workload

TOKENS = 2048.0


@pytest.mark.parametrize(
    ("model", "method", "attention", "units"),
    [
        ("llama-7b", "full", "sdpa", 45.5),
        ("llama-7b", "lora", "sdpa", 67.0),
        ("llama-7b", "full", "eager", 141.5),
        ("llama-7b", "lora", "eager", 161.0),
        ("gemma-2b", "full", "sdpa", 88.5),
        ("gemma-2b", "lora", "sdpa", 116.7),
    ],
)
def test_a_layer_keeps_what_was_measured(
    model: str, method: str, attention: str, units: float
) -> None:
    architecture = architecture_of(model)
    words = {"kind": method, "adapter_dtype": "fp32"}
    workload = read_workload(
        {"model": model, "method": words, "seq_len": 2048, "attention": attention}
    )
    saved = recorded_layer(decoder_specs(architecture, workload)[0][1], False).saved
    hidden = architecture.language_model.hidden
    assert bytes_of(saved, TOKENS, TOKENS**2) / TOKENS / hidden == pytest.approx(units, rel=0.02)


def test_a_checkpointed_layer_keeps_its_input_alone() -> None:
    architecture = architecture_of("llama-7b")
    workload = read_workload({"model": "llama-7b", "method": "full", "seq_len": 2048})
    saved = recorded_layer(decoder_specs(architecture, workload)[0][1], True).saved
    assert saved == (0, 2 * 4096, 0)
