import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.cards import card_of
from planner.layout import Layout, layout_of
from planner.models.read import architecture_of
from planner.read_workload import read_workload
from planner.time.hours import Reliability, hours_of, steps_of
from planner.time.step import step_time_of

_MODEL = "llama-2-7b"
_SAVE = 2e9


def _run(reliability=None, checkpoint_bytes=_SAVE, **fields):
    base = {"method": "lora", "seq_len": 1024, "sharding": "zero2", "gpus": 8, "samples": 100_000}
    work = read_workload({"model": _MODEL, **base, **fields})
    architecture, layout = architecture_of(_MODEL), layout_of(work)
    step = step_time_of(architecture, work, layout, card_of("A100"))
    return hours_of(architecture, work, layout, step, checkpoint_bytes, reliability)


def test_steps_come_from_the_workload_or_from_samples_and_epochs():
    layout = Layout(4.0, 2.0, np.array([8.0, 16.0]), np.array([8.0, 8.0]))
    work = read_workload(
        {"model": _MODEL, "method": "lora", "seq_len": 8, "samples": 1000, "epochs": 1.5}
    )
    assert steps_of(work, layout).tolist() == [24.0, 12.0]
    work = read_workload({"model": _MODEL, "method": "lora", "seq_len": 8, "steps": 7})
    assert steps_of(work, layout).tolist() == [7.0, 7.0]


def test_without_steps_and_samples_hours_are_unknown():
    assert _run(samples=None) is None


def test_start_up_reading_and_evaluation_come_on_top_of_steps():
    plain = _run(Reliability(startup_s=0.0))
    start = _run(Reliability(startup_s=3600.0))
    evaluated = _run(Reliability(startup_s=0.0, evaluations=4, evaluation_s=900.0))
    assert plain.train_hours_p50 == start.train_hours_p50
    assert start.hours_p50 - plain.hours_p50 == pytest.approx(1.0, rel=0.02)
    assert evaluated.hours_p50 - plain.hours_p50 == pytest.approx(1.0)
    assert plain.hours_p50 > plain.train_hours_p50


def test_a_warning_that_is_long_enough_saves_the_work():
    often = Reliability(preemptions_per_day=4, grace_s=300, startup_s=60)
    warned, unwarned = _run(often), _run(dataclasses.replace(often, grace_s=0))
    assert warned.goodput > unwarned.goodput
    assert warned.checkpoint_interval_s > unwarned.checkpoint_interval_s
    # A save that does not fit into the warning is no help.
    huge = _run(dataclasses.replace(often, disk_gb_per_s=0.001))
    assert huge.goodput < warned.goodput


def test_queues_lengthen_the_wall_and_not_the_bill():
    cluster = Reliability(preemptions_per_day=4, queue_s=1800)
    waited, quick = _run(cluster), _run(dataclasses.replace(cluster, queue_s=0))
    assert waited.hours_p50 == quick.hours_p50
    assert waited.wall_hours_p50 > waited.hours_p50 + 0.5


def test_the_given_interval_is_kept():
    assert _run(Reliability(checkpoint_interval_s=600.0)).checkpoint_interval_s == 600.0


@settings(deadline=None, max_examples=30)
@given(
    st.floats(0, 48),
    st.floats(0, 600),
    st.floats(1e6, 1e12),
    st.floats(0.05, 20),
    st.floats(0, 50),
)
def test_goodput_is_a_share_and_p95_is_later(preemptions, grace, size, disk, failures):
    cluster = Reliability(
        preemptions_per_day=preemptions,
        grace_s=grace,
        disk_gb_per_s=disk,
        failures_per_1000_node_days=failures,
    )
    run = _run(cluster, size)
    assert 0 < run.goodput <= 1
    assert run.train_hours_p50 <= run.hours_p50 <= run.hours_p95
    assert run.hours_p50 <= run.wall_hours_p50
    assert run.checkpoint_interval_s > 0


@pytest.mark.parametrize("sharding", ["ddp", "zero1", "zero2", "zero3", "fsdp"])
def test_hours_fall_with_cards_of_a_node(sharding):
    hours = [float(_run(sharding=sharding, gpus=n).hours_p50) for n in (1, 2, 4, 8)]
    assert hours == sorted(hours, reverse=True)
