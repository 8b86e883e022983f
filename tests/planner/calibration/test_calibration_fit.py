"""A calibration moves with the evidence: none, one run, contradictions, outliers, full cards."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.calibration.curves import time_curve
from planner.calibration.errors import memory_errors, time_errors
from planner.calibration.fit import fit_memory, fit_time, level_names, memory_at, time_at
from planner.calibration.observation import Key, MemoryObservation, TimeObservation

LORA = Key(method="lora", attention="sdpa", card="A100", stack="torch 2.13", model="gemma-2b zero2")
OTHER_MODEL = Key(
    method="lora", attention="sdpa", card="A100", stack="torch 2.13", model="gemma-7b zero2"
)
OTHER_CARD = Key(method="lora", attention="sdpa", card="H100", stack="torch 2.13", model="x")
QLORA = Key(method="qlora", quant="4bit", card="A100", model="gemma-2b zero2")
GIB = float(1 << 30)


def step(measured, line, key=LORA, run=None, floor=0.1, fixed=0.0):
    return TimeObservation(
        run=run or f"{key.model} {line} {measured}", key=key, measured_s=measured, floor_s=floor,
        line_s=line, fixed_s=fixed,
    )  # fmt: skip


def peak(measured, static, dynamic, slack=0.0, key=LORA, run=None, censored=False):
    return MemoryObservation(
        run=run or f"{key.model} {measured} {dynamic}", key=key, measured_bytes=measured * GIB,
        static_bytes=static * GIB, dynamic_bytes=dynamic * GIB, slack_bytes=slack * GIB,
        censored=censored,
    )  # fmt: skip


def off(levels, key, line, truth, floor=0.1):
    return time_at(levels, key, floor, line) / truth - 1


def test_without_runs_the_planner_is_believed():
    assert fit_time([]) == {}
    assert fit_memory([]) == {}
    assert time_at({}, LORA, 3.0, 4.0, 1.0) == pytest.approx(
        float(time_curve(np.zeros(5), 3.0, 4.0, 1.0))
    )
    assert memory_at({}, LORA, 5.0, 3.0, 1.0, 0.5) == 9.5
    assert time_errors([]) == {}


def test_one_run_moves_every_length_of_its_model():
    levels = fit_time([step(2.6, 2.0)])
    assert off(levels, LORA, 2.0, 2.6) == pytest.approx(0, abs=0.02)
    assert off(levels, LORA, 8.0, 8 * 1.3) == pytest.approx(0, abs=0.06)


def test_three_lengths_find_floor_overhead_and_slope():
    def truth(line):
        return max(0.25, 0.05 + 1.2 * line)

    levels = fit_time([step(truth(x), x) for x in (0.05, 0.4, 3.0)])
    for line in (0.05, 0.1, 0.4, 1.0, 3.0, 6.0):
        assert off(levels, LORA, line, truth(line)) == pytest.approx(0, abs=0.08), line


def test_what_is_learnt_falls_back_from_model_to_key_to_method_to_all():
    levels = fit_time([step(2.0 * x, x) for x in (1.0, 2.0, 4.0)])
    distance = [
        abs(math.log(time_at(levels, key, 0.1, 2.0) / 2.0))
        for key in (QLORA, OTHER_CARD, OTHER_MODEL, LORA)
    ]
    assert distance == sorted(distance)
    assert distance[0] > 0.3
    assert distance[-1] == pytest.approx(math.log(2), abs=0.03)


def test_a_model_with_own_runs_does_not_follow_the_others():
    others = [step(2.0 * x, x, OTHER_MODEL) for x in (1.0, 2.0, 3.0, 4.0)]
    levels = fit_time([*others, *(step(x, x) for x in (1.0, 2.0, 4.0))])
    assert off(levels, LORA, 3.0, 3.0) == pytest.approx(0, abs=0.06)
    assert off(levels, OTHER_MODEL, 3.0, 6.0) == pytest.approx(0, abs=0.06)


def test_contradicting_runs_meet_between():
    levels = fit_time([step(1.0, 1.0, run="a"), step(2.0, 1.0, run="b")])
    assert 1.0 < time_at(levels, LORA, 0.1, 1.0) < 2.0
    assert levels[level_names(LORA)[-1]].spread > 0.3


def test_one_broken_run_among_good_ones_hardly_counts():
    good = [step(1.2 * x, x, run=f"good {x}") for x in (0.5, 1.0, 2.0, 3.0, 4.0, 6.0)]
    levels = fit_time([*good, step(30.0, 2.5, run="swapping")])
    assert off(levels, LORA, 2.5, 3.0) == pytest.approx(0, abs=0.05)


def test_static_and_dynamic_memory_are_told_apart():
    runs = [peak(1.05 * 10 + 0.7 * x, 10, x) for x in (1, 5, 20)]
    levels = fit_memory(runs)
    assert memory_at(levels, LORA, 10, 40) == pytest.approx(1.05 * 10 + 0.7 * 40, rel=0.03)


def test_a_run_out_of_memory_pushes_upwards_only():
    levels = fit_memory([peak(24, 10, 10, censored=True)])
    assert memory_at(levels, LORA, 10, 10) > 22.5
    # It says nothing where the prediction was above the card anyhow.
    levels = fit_memory([peak(24, 10, 30, censored=True)])
    assert memory_at(levels, LORA, 10, 30) == pytest.approx(40)


def test_out_of_memory_and_finished_runs_together():
    finished = [peak(10 + 1.4 * x, 10, x) for x in (2, 5)]
    levels = fit_memory([*finished, peak(24, 10, 9, censored=True)])
    assert memory_at(levels, LORA, 10, 5) == pytest.approx(17, rel=0.04)
    assert memory_at(levels, LORA, 10, 9) > 22


def test_errors_are_of_runs_left_out_and_unknown_for_a_single_one():
    runs = [step(1.5 * x, x, run=f"{x}") for x in (1.0, 2.0, 3.0, 4.0)]
    found = time_errors(runs)[level_names(LORA)[-1]]
    assert (found.runs, found.before) == (4, pytest.approx(1 / 3, abs=0.02))
    assert found.after < 0.03
    alone = time_errors(runs[:1])[level_names(LORA)[-1]]
    assert (alone.after, alone.rms) == (None, None)


def test_lengths_of_one_run_are_left_out_together():
    """Else a run would predict itself."""
    one = [step(3.0 * x, x, run="one") for x in (1.0, 2.0, 4.0)]
    other = [step(1.0 * x, x, run="other") for x in (1.0, 2.0, 4.0)]
    assert time_errors([*one, *other])[level_names(LORA)[-1]].after > 0.5


def test_a_run_out_of_memory_has_no_error_of_its_own():
    runs = [peak(20, 10, 10, run="done"), peak(24, 10, 10, run="full", censored=True)]
    assert memory_errors(runs)[level_names(LORA)[-1]].runs == 1


positive = st.floats(1e-3, 1e3)
keys = st.sampled_from([LORA, OTHER_MODEL, OTHER_CARD, QLORA])
steps = st.builds(step, positive, positive, keys, st.sampled_from("abcd"), positive, positive)
peaks = st.builds(
    peak, positive, positive, positive, positive, keys, st.sampled_from("abcd"), st.booleans()
)


@given(st.lists(steps, max_size=6), keys, positive, positive)
@settings(max_examples=20, deadline=None)
def test_whatever_was_measured_times_stay_finite_and_grow_with_the_work(runs, key, floor, line):
    levels = fit_time(runs)
    short, long = (time_at(levels, key, floor, x) for x in (line, 2 * line))
    assert 0 < short < math.inf
    assert long >= short * (1 - 1e-9)


@given(st.lists(peaks, max_size=6), keys, positive, positive)
@settings(max_examples=40, deadline=None)
def test_whatever_was_measured_peaks_stay_finite_and_grow_with_the_tensors(
    runs, key, static, dynamic
):
    levels = fit_memory(runs)
    small, large = (memory_at(levels, key, static, x) for x in (dynamic, 2 * dynamic))
    assert 0 < small <= large < math.inf


@given(st.permutations([step(1.1, 1.0), step(2.6, 2.0), step(3.9, 4.0), step(9.0, 8.0)]))
@settings(max_examples=10, deadline=None)
def test_the_order_of_the_runs_does_not_matter(runs):
    known = fit_time(sorted(runs, key=lambda o: o.line_s))
    assert time_at(fit_time(runs), LORA, 0.1, 3.0) == pytest.approx(
        time_at(known, LORA, 0.1, 3.0), rel=1e-4
    )
