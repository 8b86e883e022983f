"""A calibrated prediction is a prediction: parts that sum, p95 above p50, words for the plan."""

import datetime as dt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.calibration.apply import calibrated
from planner.calibration.key import key_of
from planner.calibration.observation import MemoryObservation, TimeObservation
from planner.calibration.parts import memory_parts, time_parts
from planner.calibration.store import learn, read_calibration, write_calibration
from planner.cards import card_of
from planner.errors import PlannerError
from planner.layout import Layout, layout_of
from planner.memory.peak import memory_of
from planner.models.read import architecture_of
from planner.read_workload import read_workload
from planner.time.step import step_time_of

NOW = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)
CARD = card_of("A100-SXM4-80GB")
MODEL = architecture_of("gemma-2b")


def workload(seq_len=1024, **changes):
    return read_workload(
        {"model": "gemma-2b", "method": "lora", "seq_len": seq_len, "sharding": "zero2", "gpus": 2}
        | changes
    )


def predicted(asked, layout=None):
    layout = layout or layout_of(asked)
    return memory_of(MODEL, asked, layout), step_time_of(MODEL, asked, layout, CARD)


def measured_run(name, seq_len, time_factor, memory_factor):
    """A run that took so many times what the planner says."""
    asked = workload(seq_len)
    layout, (memory, step) = layout_of(asked), predicted(asked)
    key = key_of(MODEL, asked, CARD.name, "torch 2.13")
    parts = time_parts(MODEL, asked, layout, CARD, step)
    peak = memory_parts(memory.components)
    return (
        TimeObservation(
            run=name, key=key, measured_s=time_factor * float(step.p50_s - step.data_wait_s),
            floor_s=float(parts.floor_s), line_s=float(parts.line_s), fixed_s=float(parts.fixed_s),
        ),
        MemoryObservation(
            run=name, key=key, measured_bytes=memory_factor * float(peak.static + peak.dynamic),
            static_bytes=float(peak.static), dynamic_bytes=float(peak.dynamic),
        ),
    )  # fmt: skip


def learnt(time_factor=1.5, memory_factor=1.2, lengths=(512, 1024, 4096)):
    both = [measured_run(f"run {length}", length, time_factor, memory_factor) for length in lengths]
    return learn(
        {f"run {length}": 1.0 for length in lengths},
        [time for time, _ in both],
        [memory for _, memory in both],
        NOW,
    )


def apply(asked, calibration, layout=None):
    layout = layout or layout_of(asked)
    return calibrated(MODEL, asked, layout, CARD, *predicted(asked, layout), calibration)


def test_parts_of_a_step_give_the_whole_again():
    asked = workload()
    _, step = predicted(asked)
    parts = time_parts(MODEL, asked, layout_of(asked), CARD, step)
    from planner.calibration.fit import time_at

    again = time_at({}, key_of(MODEL, asked, "", ""), parts.floor_s, parts.line_s, parts.fixed_s)
    assert again == pytest.approx(float(step.p50_s - step.data_wait_s), rel=1e-9)


def test_without_a_calibration_nothing_changes():
    asked = workload()
    memory, step = predicted(asked)
    result = apply(asked, None)
    assert (result.memory, result.step) == (memory, step)
    assert result.words.startswith("none")


def test_a_calibration_moves_a_length_that_never_ran():
    asked = workload(2048)
    memory, step = predicted(asked)
    result = apply(asked, learnt())
    assert float(result.step.p50_s) == pytest.approx(1.5 * float(step.p50_s), rel=0.05)
    assert float(result.memory.allocated_bytes) == pytest.approx(
        1.2 * float(memory.allocated_bytes), rel=0.03
    )


def test_parts_keep_their_sums():
    result = apply(workload(2048), learnt())
    step, memory = result.step, result.memory
    whole = step.compute_s + step.exposed_communication_s + step.optimizer_s + step.data_wait_s
    assert float(whole) == pytest.approx(float(step.p50_s))
    assert float(sum(memory.components.values())) == pytest.approx(float(memory.peak_p50_bytes))
    assert float(max(memory.phases.values())) == pytest.approx(float(memory.allocated_bytes))


def test_the_context_of_the_process_is_not_multiplied():
    before, _ = predicted(workload())
    after = apply(workload(), learnt(memory_factor=3.0)).memory
    for name in ("context", "nccl"):
        assert float(after.components[name]) == float(before.components[name])
    whole = apply(workload(memory_metric="allocated"), learnt(memory_factor=3.0)).memory
    assert float(whole.process_p50_bytes) > float(whole.peak_p50_bytes)


def test_a_whole_grid_is_calibrated_at_once():
    asked = workload()
    layout = Layout(
        micro_batch=np.array([1.0, 2.0, 4.0]), grad_accum=np.array([4.0, 2.0, 1.0]),
        gpus=np.array([2.0, 2.0, 2.0]), gpus_per_node=np.array([2.0, 2.0, 2.0]),
    )  # fmt: skip
    together = apply(asked, learnt(), layout)
    for place in range(3):
        one = Layout(*(float(getattr(layout, n)[place]) for n in layout.__slots__))
        alone = apply(asked, learnt(), one)
        assert together.step.p50_s[place] == pytest.approx(float(alone.step.p50_s))
        assert together.memory.process_p95_bytes[place] == pytest.approx(
            float(alone.memory.process_p95_bytes)
        )


def test_the_plan_says_what_was_used_and_how_wrong_it_is():
    words = apply(workload(), learnt()).words
    assert "2026-11-22" in words
    assert "step time from 3 runs" in words
    assert "before" in words
    assert "error not known yet" in apply(workload(), learnt(lengths=(512,))).words


def test_runs_that_agree_narrow_the_margin_and_wild_ones_widen_it():
    asked = workload()
    _, step = predicted(asked)
    own = float(step.p95_s / step.p50_s)
    calm = apply(asked, learnt(lengths=(256, 512, 768, 1024, 1536, 2048))).step
    assert 1 < float(calm.p95_s / calm.p50_s) < own
    wild = [measured_run(f"{n}", 1024, factor, 1.0) for n, factor in enumerate((0.4, 1.0, 2.5, 6))]
    result = apply(asked, learn({"0": 1.0}, [t for t, _ in wild], [], NOW)).step
    assert float(result.p95_s / result.p50_s) > own


@given(st.floats(0.05, 20), st.floats(0.05, 20), st.integers(1, 8192))
@settings(max_examples=10, deadline=None)
def test_p95_is_never_below_p50(time_factor, memory_factor, seq_len):
    result = apply(workload(seq_len), learnt(time_factor, memory_factor, (512, 2048)))
    assert result.step.p95_s >= result.step.p50_s > 0
    assert result.memory.peak_p95_bytes >= result.memory.peak_p50_bytes > 0
    assert result.memory.process_p95_bytes >= result.memory.process_p50_bytes > 0


def test_a_calibration_is_read_back_as_it_was(tmp_path):
    path = tmp_path / "new" / "calibration.json"
    known = learnt()
    write_calibration(path, known)
    assert read_calibration(path) == known
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["calibration.json"]
    assert read_calibration(tmp_path / "none.json") is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds no calibration"),
        (b"[]", "holds no calibration"),
        (b'{"version": 0}', "version 0"),
        (b'{"version": 1}', "holds no calibration"),
        (b"\xff\xfe", "holds no calibration"),
        (b"[" * 100_000, "holds no calibration"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path, content, words):
    path = tmp_path / "calibration.json"
    path.write_bytes(content)
    with pytest.raises(PlannerError, match=words) as error:
        read_calibration(path)
    assert "\n" not in str(error.value)


def test_impossible_parameters_are_refused(tmp_path):
    path = tmp_path / "calibration.json"
    write_calibration(path, learnt())
    path.write_text(path.read_text().replace('"theta": [', '"theta": [9.0,', 1))
    with pytest.raises(PlannerError, match="the level all is wrong"):
        read_calibration(path)


def test_a_calibration_of_another_planner_is_not_used(tmp_path):
    path = tmp_path / "calibration.json"
    known = learnt()
    write_calibration(path, known)
    path.write_text(path.read_text().replace(known.planner, "0" * 12))
    asked = workload()
    result = apply(asked, read_calibration(path))
    assert result.step == predicted(asked)[1]
    assert "older planner" in result.words
