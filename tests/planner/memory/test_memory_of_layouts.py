"""How memory moves with the layout, and that arrays are many scalars side by side."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_words import memory, peak_gib

from planner.layout import Layout
from planner.memory.peak import memory_of
from planner.models.read import architecture_of
from planner.read_workload import read_workload

SHARDINGS = ("none", "ddp", "zero0", "zero1", "zero2", "zero3", "fsdp", "fsdp_grad_op")
METHODS = ("full", "lora", "qlora")


def _gpus(sharding: str) -> int:
    return 1 if sharding == "none" else 8


@settings(max_examples=60, deadline=None)
@given(
    sharding=st.sampled_from(SHARDINGS),
    method=st.sampled_from(METHODS),
    ckpt=st.booleans(),
    attention=st.sampled_from(("flash", "eager")),
    batch=st.integers(1, 16),
    length=st.integers(64, 8192),
)
def test_more_samples_and_longer_ones_never_take_less(
    sharding: str, method: str, ckpt: bool, attention: str, batch: int, length: int
) -> None:
    words = {
        "sharding": sharding,
        "gpus": _gpus(sharding),
        "method": method,
        "grad_ckpt": ckpt,
        "attention": attention,
    }
    here = peak_gib(micro_batch=batch, seq_len=length, **words)
    assert peak_gib(micro_batch=batch + 1, seq_len=length, **words) >= here
    assert peak_gib(micro_batch=batch, seq_len=length + 64, **words) >= here


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_more_trained_parameters_never_take_less(sharding: str) -> None:
    ranks = [
        peak_gib(method={"kind": "lora", "r": r}, sharding=sharding, gpus=_gpus(sharding))
        for r in (4, 16, 64, 256)
    ]
    assert ranks == sorted(ranks)


@settings(max_examples=40, deadline=None)
@given(
    sharding=st.sampled_from(("zero1", "zero2", "zero3", "fsdp", "fsdp_grad_op")),
    method=st.sampled_from(METHODS),
    gpus=st.sampled_from((1, 2, 4, 8)),
    length=st.integers(64, 4096),
)
def test_more_cards_never_take_more_of_each(
    sharding: str, method: str, gpus: int, length: int
) -> None:
    words = {"sharding": sharding, "method": method, "seq_len": length}
    assert peak_gib(gpus=2 * gpus, **words) <= peak_gib(gpus=gpus, **words) * (1 + 1e-9)


@pytest.mark.parametrize("model", ["gemma-2b", "mgm-2b", "llava-1.5-7b"])
@pytest.mark.parametrize("sharding", SHARDINGS[1:])
@pytest.mark.parametrize("seq_len", [2048, {"mean": 900, "std": 500, "max": 2048}])
def test_arrays_are_scalars_side_by_side(model: str, sharding: str, seq_len: object) -> None:
    workload = read_workload(
        {"model": model, "method": "lora", "seq_len": seq_len, "sharding": sharding, "gpus": 8}
    )
    architecture = architecture_of(model)
    rows = [(1.0, 1.0, 2.0, 2.0), (4.0, 2.0, 8.0, 8.0), (3.0, 1.0, 16.0, 8.0), (1.0, 8.0, 1.0, 1.0)]
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    together = memory_of(architecture, workload, Layout(*columns))
    for index, row in enumerate(rows):
        alone = memory_of(architecture, workload, Layout(*row))
        for name in ("peak_p50_bytes", "peak_p95_bytes", "host_bytes", "checkpoint_bytes"):
            assert getattr(together, name)[index] == pytest.approx(float(getattr(alone, name)))
        for name, value in together.components.items():
            one = float(alone.components.get(name, 0.0))
            assert np.broadcast_to(value, 4)[index] == pytest.approx(one, abs=1.0), name


@pytest.mark.parametrize("metric", ["allocated", "reserved", "process"])
@pytest.mark.parametrize("sharding", SHARDINGS)
@pytest.mark.parametrize("method", METHODS)
def test_components_sum_to_the_median_of_the_metric(
    metric: str, sharding: str, method: str
) -> None:
    found = memory(memory_metric=metric, sharding=sharding, gpus=_gpus(sharding), method=method)
    total = sum(float(value) for value in found.components.values())
    assert total == pytest.approx(float(found.peak_p50_bytes))
    assert float(found.peak_p95_bytes) > total
    assert float(found.allocated_bytes) <= float(found.process_p50_bytes)
    assert float(found.allocated_bytes) == pytest.approx(
        max(float(value) for value in found.phases.values())
    )
