import numpy as np
import pytest

from planner.cards import card_of
from planner.layout import Layout, layout_of
from planner.models.read import architecture_of
from planner.models.trainable import trainable_of
from planner.read_workload import read_workload
from planner.time.communication import collective_seconds, traffic_of

_MODEL = "llama-2-7b"


def _traffic(sharding, method="full", model=_MODEL, **fields):
    work = read_workload(
        {"model": model, "method": method, "seq_len": 2048, "sharding": sharding, "gpus": 8}
        | fields
    )
    architecture = architecture_of(model)
    trained = trainable_of(architecture, work.method, work.towers).total
    return traffic_of(architecture, work, float(trained)), architecture.parameters


def test_what_each_stage_sends():
    ddp, parameters = _traffic("ddp")
    assert (ddp.micro_bytes, ddp.step_bytes) == (0.0, 4.0 * parameters)
    zero1, _ = _traffic("zero1")
    assert (zero1.micro_bytes, zero1.step_bytes) == (0.0, 4.0 * parameters)
    zero2, _ = _traffic("zero2")
    assert (zero2.micro_bytes, zero2.step_bytes) == (2.0 * parameters, 2.0 * parameters)
    zero3, _ = _traffic("zero3")
    assert zero3.micro_bytes == 6.0 * parameters
    grad_op, _ = _traffic("fsdp_grad_op")
    assert grad_op.micro_bytes == 4.0 * parameters


def test_zero3_gathers_frozen_parameters_too():
    lora, parameters = _traffic("zero3", "lora")
    assert lora.micro_bytes > 4.0 * parameters
    stage2, _ = _traffic("zero2", "lora")
    assert stage2.micro_bytes < 0.02 * lora.micro_bytes


def test_a_quantised_base_is_gathered_quantised():
    lora, _ = _traffic("fsdp", "lora")
    qlora, _ = _traffic("fsdp", "qlora")
    assert 0.25 < qlora.micro_bytes / lora.micro_bytes < 0.35


def test_a_frozen_tower_is_gathered_once():
    frozen, _ = _traffic("zero3", "full", "llava-1.5-7b")
    trained, _ = _traffic("zero3", "full", "llava-1.5-7b", towers="trainable")
    assert frozen.micro_bytes < trained.micro_bytes


def _seconds(card, gpus, per_node=8.0, moved=1e10, **links):
    work = read_workload(
        {"model": _MODEL, "method": "full", "seq_len": 8, "interconnect": links or {}}
    )
    layout = Layout(1.0, 1.0, gpus, np.minimum(gpus, per_node))
    return collective_seconds(moved, 1.0, work, layout, card_of(card))


def test_a_ring_moves_its_share_over_the_slowest_link():
    assert _seconds("A100", 8.0) == pytest.approx(7 / 8 * 1e10 / (300e9 * 0.65), rel=0.01)
    slow = _seconds("A100", 16.0, node_gb_per_s=25.0)
    assert slow == pytest.approx(15 / 16 * 1e10 / (25e9 * 0.9), rel=0.01)
    assert _seconds("A100", 16.0) < slow
    assert _seconds("RTX 4090", 2.0) > 5 * _seconds("A100", 2.0)


def test_one_card_talks_to_nobody():
    assert _seconds("A100", 1.0) == 0.0
    assert _seconds("A100", np.array([1.0, 2.0]))[0] == 0.0


def test_one_card_needs_no_traffic_without_a_wrapper():
    work = read_workload({"model": _MODEL, "method": "full", "seq_len": 8})
    found = traffic_of(architecture_of(_MODEL), work, 1e9)
    assert (found.micro_bytes, found.step_bytes) == (0.0, 0.0)
    assert layout_of(work).nodes == 1.0
