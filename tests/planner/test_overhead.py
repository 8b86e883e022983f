"""What the allocator, the context and NCCL add to live tensors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.cards import card_of
from planner.layout import layout_of
from planner.memory.allocated import Allocated
from planner.memory.overhead import CONSTANTS, added_of, overhead_of, p95_of, unevenness
from planner.models.read import architecture_of
from planner.read_workload import read_workload

GIB = float(1 << 30)
MODEL = architecture_of("llama-2-7b")


def workload_of(**fields):
    base = {"model": "llama-2-7b", "method": "lora", "seq_len": 2048, "gpu": "A100-SXM4-80GB"}
    return read_workload(base | fields)


def allocated_of(static, hump, step=0.0, largest=0.0):
    phases = {"loss": (static + hump) * GIB, "step": (static + step) * GIB}
    return Allocated(
        components={},
        phases=phases,
        peak_bytes=max(phases.values()),
        static_bytes=static * GIB,
        largest_tensor_bytes=largest * GIB,
    )


def overhead(allocated, **fields):
    workload = workload_of(**fields)
    return overhead_of(MODEL, workload, layout_of(workload), allocated)


VARIED = {"values": [512, 1024, 2048], "weights": [0.4, 0.4, 0.2]}


def test_varying_lengths_leave_more_unused_than_one_length():
    tensors = allocated_of(14.0, 4.0, largest=1.0)
    assert (
        overhead(tensors, seq_len=VARIED).slack_p50_bytes > overhead(tensors).slack_p50_bytes + GIB
    )


def test_expandable_segments_take_most_of_that_away():
    tensors = allocated_of(14.0, 4.0, largest=1.0)
    plain = overhead(tensors).slack_p50_bytes
    varied = overhead(tensors, seq_len=VARIED).slack_p50_bytes
    grown = overhead(tensors, seq_len=VARIED, expandable_segments=True).slack_p50_bytes
    assert grown - plain < 0.2 * (varied - plain)


def test_a_full_card_squeezes_the_slack_but_not_the_tensors():
    tensors = allocated_of(60.0, 18.0, largest=5.0)
    found = overhead(tensors, seq_len=VARIED)
    assert found.slack_p50_bytes < 2 * GIB
    assert p95_of(tensors, found, "process") >= tensors.peak_bytes


def test_what_cannot_fit_is_not_squeezed_until_it_does():
    tensors = allocated_of(70.0, 12.0)
    card = card_of("A100-SXM4-80GB")
    assert p95_of(tensors, overhead(tensors), "process") > card.usable_bytes


@pytest.mark.parametrize(
    ("gpu", "gpus", "least", "most"),
    [
        ("A100-SXM4-80GB", 1, 0.0, 0.0),
        ("A100-SXM4-80GB", 8, 0.9, 1.5),
        ("RTX 4090", 2, 0.05, 0.3),
    ],
)
def test_nccl_takes_its_buffers_where_cards_talk(gpu, gpus, least, most):
    found = overhead(allocated_of(10.0, 2.0), gpu=gpu, gpus=gpus, sharding="ddp")
    assert least <= float(found.nccl_bytes) / GIB <= most


def test_flat_copies_of_deepspeed_come_on_top_of_cached_blocks():
    tensors = allocated_of(20.0, 4.0, step=8.0)
    zero = overhead(tensors, sharding="zero2", gpus=4).slack_p50_bytes
    ddp = overhead(tensors, sharding="ddp", gpus=4).slack_p50_bytes
    assert zero > ddp + 2 * GIB


def test_metrics_grow_from_allocated_over_reserved_to_process():
    found = overhead(allocated_of(10.0, 2.0), gpus=2, sharding="ddp")
    sums = [sum(added_of(found, metric).values()) for metric in ("allocated", "reserved")]
    assert sums[0] == 0.0 < sums[1] < sum(added_of(found, "process").values())


@given(
    static=st.floats(0.1, 60.0),
    hump=st.floats(0.0, 60.0),
    share=st.floats(0.0, 1.0),
    metric=st.sampled_from(["allocated", "reserved", "process"]),
)
def test_p95_is_never_below_the_median(static, hump, share, metric):
    tensors = allocated_of(static, hump, largest=share * hump)
    found = overhead(tensors, seq_len=VARIED)
    median = tensors.peak_bytes + sum(added_of(found, metric).values())
    assert p95_of(tensors, found, metric) >= median * (1 - 1e-9)


def test_many_layouts_are_answered_at_once_as_one_by_one():
    static, hump = np.array([5.0, 20.0, 70.0]), np.array([1.0, 8.0, 20.0])
    phases = {"loss": (static + hump) * GIB, "step": static * GIB}
    many = Allocated({}, phases, phases["loss"], static * GIB, 0.3 * hump * GIB)
    found = p95_of(many, overhead(many, seq_len=VARIED), "process")
    for place, (one_static, one_hump) in enumerate(zip(static, hump, strict=True)):
        one = allocated_of(one_static, one_hump, largest=0.3 * one_hump)
        single = p95_of(one, overhead(one, seq_len=VARIED), "process")
        assert found[place] == pytest.approx(float(single))


def test_a_fixed_length_is_even():
    assert unevenness(workload_of().seq_len) == 0.0
    assert CONSTANTS.least_share < 1.0
