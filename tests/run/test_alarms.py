"""What raises an alarm, and above all what does not."""

import csv
import itertools
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcjobs.run.alarms import (
    Alarm,
    Ledger,
    Reading,
    compute_s_a_lap,
    data_wait_alarm,
    data_wait_share,
    idle_card_alarms,
    straggler_alarms,
)
from hpcjobs.run.alarms_memory import Level, steady_growth, thinned
from hpcjobs.run.watch_config import WatchSettings

SETTINGS = WatchSettings()
MIB, GIB = 1 << 20, 1 << 30


def traces():
    """Memory of real processes, as record_memory_traces.py saw it."""
    found = defaultdict(list)
    with Path(__file__).with_name("memory_traces.csv").open() as file:
        for row in csv.DictReader(file):
            level = Level(int(row["step"]), float(row["at_s"]), int(row["held_kib"]) << 10)
            found[row["trace"]].append(level)
    return dict(found)


TRACES = traces()
LEAKS = {"leak": 1.0, "leak_in_lumps": 1.0, "leak_under_a_sawtooth": 1.0}


def said_at(levels, limit, steps):
    """The first growth that is found as the levels come in one by one, and the step of it."""
    seen = []
    for level in levels:
        seen = thinned([*seen, level])
        growth = steady_growth(seen, limit, steps)
        if growth is not None:
            return level.step, growth
    return None, None


@pytest.mark.parametrize("trace", sorted(TRACES.keys() - LEAKS.keys()))
def test_real_processes_that_do_not_leak_raise_no_alarm_at_any_moment(trace):
    """Even where the limit is near: three times of what they ever hold."""
    limit = 3 * max(level.held_bytes for level in TRACES[trace])
    assert said_at(TRACES[trace], limit, steps=1_000_000) == (None, None)


@pytest.mark.parametrize("trace", LEAKS)
def test_a_real_leak_is_named_with_its_end_long_before_it(trace):
    limit, levels = 4 * GIB, TRACES[trace]
    step, growth = said_at(levels, limit, steps=100_000)
    assert step is not None
    assert growth.bytes_a_step / MIB == pytest.approx(LEAKS[trace], rel=0.25)
    runs_out = levels[0].step + (limit - levels[0].held_bytes) / (LEAKS[trace] * MIB)
    assert growth.step == pytest.approx(runs_out, rel=0.25)
    assert step < 0.2 * growth.step
    assert growth.in_s > 0


def line(count=60, first=100 * MIB, a_step=MIB):
    return [Level(n, 2.0 * n, first + n * a_step) for n in range(count)]


@given(st.floats(0.6, 64), st.integers(1, 200), st.integers(48, 200))
def test_a_steady_growth_is_extrapolated_exactly(mib, first_mib, count):
    levels = line(count, first_mib * MIB, int(mib * MIB))
    growth = steady_growth(levels, 4 * GIB, steps=1_000_000)
    assert growth is not None
    assert growth.bytes_a_step == pytest.approx(int(mib * MIB))
    left = max(0.0, (4 * GIB - levels[-1].held_bytes) / int(mib * MIB))
    assert growth.step == pytest.approx(levels[-1].step + left, abs=1)
    assert growth.in_s == pytest.approx(2.0 * left, rel=0.01, abs=3)


@given(st.lists(st.integers(0, 32 * GIB), min_size=48, max_size=300))
def test_a_peak_that_is_never_reached_again_is_no_growth(held):
    levels = [Level(n, float(n), size) for n, size in enumerate(held)]
    levels[0] = Level(0, 0.0, 33 * GIB)
    assert steady_growth(levels, 64 * GIB, steps=10**9) is None


@given(st.floats(0.01, 0.9), st.integers(1, 100))
def test_a_warm_up_that_levels_off_is_no_growth(rate, mib):
    held = itertools.accumulate(mib * MIB * (1 - rate) ** (n / 4) for n in range(120))
    levels = [Level(n, float(n), int(size)) for n, size in enumerate(held)]
    assert rate < 0.06 or steady_growth(levels, 512 * GIB, steps=10**9) is None


@given(st.integers(2, 15), st.integers(1, 50))
def test_a_sawtooth_is_no_growth(period, mib):
    levels = [Level(n, float(n), (100 + n % period * mib) * MIB) for n in range(240)]
    assert steady_growth(levels, 64 * GIB, steps=10**9) is None


NO_ALARM = {
    "too few readings": (line(47), 64 * GIB, 10**6),
    "flat": (line(a_step=0), 64 * GIB, 10**6),
    "shrinking": (line(first=GIB, a_step=-MIB), 64 * GIB, 10**6),
    "the training ends first": (line(), 64 * GIB, 1000),
    "no limit is known": (line(), None, 10**6),
    "less than it would matter": (line(a_step=1000), 64 * GIB, 10**9),
    "no step was made": ([Level(1, n, n * GIB) for n in range(60)], 64 * GIB, 10**6),
    "nothing": ([], 64 * GIB, 10**6),
}


@pytest.mark.parametrize("case", NO_ALARM)
def test_what_is_no_growth_towards_a_limit_is_not_said(case):
    assert steady_growth(*NO_ALARM[case]) is None


@given(st.integers(0, 1000))
def test_thinning_keeps_the_whole_history_within_bounds(count):
    seen = []
    for n in range(count):
        seen = thinned([*seen, Level(n, float(n), n)], most=40)
    assert len(seen) <= 40
    assert [level.step for level in seen] == sorted({level.step for level in seen})
    assert count == 0 or (seen[0].step == 0 and seen[-1].step >= count - count // 10 - 1)


def readings(data_share=0.0, compute_s=0.5, laps=60, every_s=10.0, first_s=0.0):
    """One lap every ``every_s`` seconds."""
    return [
        Reading(first_s + n * every_s, n, n * every_s * data_share, n * compute_s)
        for n in range(laps + 1)
    ]


def test_waiting_for_data_is_measured_over_the_window_and_unknown_before():
    assert data_wait_share(readings(data_share=0.4), 600) == pytest.approx(0.4)
    assert data_wait_share(readings(data_share=0.4, laps=20), 600) is None
    assert data_wait_share([], 600) is None
    standing = [Reading(10.0 * n, 5, 10.0 * n, 1.0) for n in range(61)]
    assert data_wait_share(standing, 600) is None  # that is for the hang's limit


@pytest.mark.parametrize(
    ("shares", "named"),
    [({0: 0.1, 1: 0.29}, None), ({0: 0.31, 1: 0.6}, "rank 1"), ({0: None, 1: None}, None)],
)
def test_data_that_come_too_slowly_are_said_of_the_worst_rank(shares, named):
    alarm = data_wait_alarm(shares, "node3", SETTINGS)
    assert (alarm is None) == (named is None)
    if alarm:
        assert alarm.text.startswith(f"{named} on node3 spends 60% of its time waiting for data")
        assert alarm.figures == {"shares": {"0": 0.31, "1": 0.6}}


@pytest.mark.parametrize(
    ("paces", "named"),
    [
        ({0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0}, []),
        ({0: 1.0, 1: 1.0, 2: 1.5, 3: 1.0}, ["rank 2"]),
        ({0: 1.0, 1: 1.3}, ["rank 1"]),
        ({0: 1.0, 1: 1.19}, []),
        ({0: 1.0, 1: None, 2: None}, []),
        ({0: None}, []),
        ({0: 0.0, 1: 0.0}, []),
    ],
)
def test_a_rank_that_computes_longer_than_the_others_is_named(paces, named):
    assert [alarm.subject for alarm in straggler_alarms(paces, SETTINGS)] == named


def test_the_pace_is_of_the_last_window_and_needs_some_laps():
    slow_now = [*readings(laps=60), *readings(laps=60, first_s=610.0)]
    assert compute_s_a_lap(readings(compute_s=0.7), 600) == pytest.approx(0.7)
    assert compute_s_a_lap(readings(laps=9, every_s=65), 600) is None
    assert compute_s_a_lap(slow_now[:61], 600) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("used", "named"),
    [
        ({"0": [(t, 0.0) for t in range(0, 601, 30)]}, ["node1:0"]),
        ({"0": [(t, 97.0 if t == 300 else 0.0) for t in range(0, 601, 30)]}, []),
        ({"0": [(t, 0.0) for t in range(0, 301, 30)]}, []),
        ({"0": [(t, 90.0) for t in range(0, 601, 30)], "1": []}, []),
        ({}, []),
    ],
)
def test_a_card_is_idle_when_it_was_for_the_whole_window_and_never_when_unread(used, named):
    assert [alarm.subject for alarm in idle_card_alarms(used, "node1", SETTINGS)] == named


def test_an_alarm_is_said_once_until_it_has_been_over_for_a_while():
    ledger, alarm = Ledger(), Alarm("data_wait", "node1", "slow", {"share": 0.4})
    again = Alarm("data_wait", "node1", "slower", {"share": 0.6})
    assert ledger.update([alarm]) == ([alarm], [])
    assert ledger.update([again]) == ([], [])
    for _ in range(9):
        assert ledger.update([]) == ([], [])
    assert ledger.update([again]) == ([], [])
    for _ in range(9):
        assert ledger.update([]) == ([], [])
    assert ledger.update([]) == ([], [again])
    assert ledger.update([alarm]) == ([alarm], [])


@given(st.lists(st.sets(st.sampled_from("abc"))))
def test_an_alarm_that_was_said_is_not_said_again_before_it_was_cleared(looks):
    ledger, open_now = Ledger(), set()
    for names in looks:
        new, over = ledger.update([Alarm("what", name, "text") for name in sorted(names)])
        assert {alarm.subject for alarm in new} == names - open_now
        assert {alarm.subject for alarm in over} <= open_now - names
        open_now = open_now | names - {alarm.subject for alarm in over}
        open_now -= {alarm.subject for alarm in over}
