"""The interval between saves: the formula, its bounds, and when a change is worth an event."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_words

from hpcjobs.login.compose import compose_experiment
from hpcjobs.run.cluster_config import Cluster
from hpcjobs.train.interval import (
    FIRST_S,
    LONGEST_S,
    PREEMPTIONS_PER_DAY,
    SHORTEST_S,
    Cost,
    auto_interval_s,
    daly_interval_s,
    mean_time_s,
    recent_costs,
)
from hpcjobs.train.rhythm import Rhythm
from planner import interruptions
from planner.search import conditions
from planner.time import hours

DAY_S = 86_400.0
seconds = st.floats(1e-3, 1e5)


def experiment(tmp_path, **changes):
    plan = {"train.checkpoint.every_steps": "null", "train.checkpoint.every_s": "auto"} | changes
    return compose_experiment(tiny_words(tmp_path, **plan))[1]


@given(stall_s=seconds, mean_s=st.floats(1.0, 1e8))
def test_the_formula_is_the_planners(stall_s, mean_s):
    expected = float(interruptions.daly_interval(stall_s, mean_s))
    assert daly_interval_s(stall_s, mean_s) == pytest.approx(expected, rel=1e-12)


def test_training_and_planner_expect_the_same_losses():
    assert Cluster().failures_per_1000_node_days == interruptions.FAILURES_PER_1000_NODE_DAYS
    assert PREEMPTIONS_PER_DAY == conditions.PREEMPTIONS_PER_DAY
    assert LONGEST_S == hours.LONGEST_INTERVAL_S


@given(
    costs=st.lists(st.builds(Cost, stall_s=seconds, save_s=seconds), max_size=3),
    mean_s=st.one_of(st.just(math.inf), st.floats(1.0, 1e9)),
)
def test_the_interval_stays_within_its_bounds(costs, mean_s):
    interval_s = auto_interval_s(costs, mean_s)
    slowest_s = max((cost.save_s for cost in costs), default=0.0)
    assert max(SHORTEST_S, slowest_s) <= interval_s <= max(LONGEST_S, slowest_s)


@given(stall_s=st.floats(1e-3, 50.0), mean_s=st.floats(1e3, 1e7))
def test_where_no_bound_holds_no_interval_loses_less(stall_s, mean_s):
    """Compared with Daly's exact model, of which the formula is an approximation."""

    def lost(tau):
        return mean_s * math.expm1((tau + stall_s) / mean_s) / tau

    best_s = daly_interval_s(stall_s, mean_s)
    assert lost(best_s) <= lost(best_s * 1.25) * (1 + 1e-6)
    assert lost(best_s) <= lost(best_s * 0.8) * (1 + 1e-6)


@pytest.mark.parametrize(
    ("stall_s", "save_s", "mean_s", "expected_s"),
    [
        (60, 60, 6 * 3600, 1570),  # reliability of two nodes that are preempted every six hours
        (5, 60, 6 * 3600, 461),
        (5, 600, 6 * 3600, 600),  # a save takes longer than the best interval
        (0.01, 1, 600, 10),
        (60, 60, 77 * DAY_S, 1800),  # two nodes, hardware alone
        (60, 60, math.inf, 1800),
    ],
)
def test_intervals_of_typical_runs(stall_s, save_s, mean_s, expected_s):
    assert auto_interval_s([Cost(stall_s, save_s)], mean_s) == pytest.approx(expected_s, abs=0.5)


def test_before_the_first_save_it_is_soon():
    assert auto_interval_s([], math.inf) == FIRST_S


@pytest.mark.parametrize(
    ("changes", "needed_s", "days"),
    [
        ({"cluster.signal_lead_s": 120}, 100, 1000 / 6.5),
        ({"cluster.signal_lead_s": 120}, 121, 1 / (2 + 0.0065)),
        ({"cluster.failures_per_1000_node_days": 0}, 1, math.inf),
        ({"cluster.failures_per_1000_node_days": 21, "planner.preemptions_per_day": 4}, 1e4,
         1 / (4 + 0.021)),
    ],
    ids=["warned in time", "warned too late", "nothing fails", "both rates"],
)  # fmt: skip
def test_the_mean_time_counts_what_comes_without_a_sufficient_warning(
    tmp_path, changes, needed_s, days
):
    assert mean_time_s(experiment(tmp_path, **changes), needed_s) == pytest.approx(days * DAY_S)


def test_costs_of_earlier_attempts_are_remembered_and_the_newest_count():
    events = [{"kind": "checkpoint", "stall_s": i, "save_s": 2 * i} for i in range(5)]
    events += [{"kind": "checkpoint", "step": 3}, {"kind": "attempt_started"}]
    assert recent_costs(events) == [Cost(2, 4), Cost(3, 6), Cost(4, 8)]


def test_a_change_is_told_when_it_is_material_and_a_short_warning_names_what_is_needed(tmp_path):
    rhythm = Rhythm(experiment(tmp_path, **{"cluster.signal_lead_s": 100}))
    assert rhythm.interval_s == FIRST_S
    assert rhythm.learn(Cost(1.0, 10.0)) == [("checkpoint_interval", {"interval_s": 1800.0})]
    assert rhythm.learn(Cost(1.1, 11.0)) == []
    rhythm.step_s = 30.0
    (interval, told), (warning, figures) = rhythm.learn(Cost(60.0, 60.0))
    assert interval == "checkpoint_interval"
    assert told["interval_s"] < 1800, "preemptions count now: the warning is too short"
    assert warning == "grace_too_short"
    assert figures == {"lead_s": 100, "needed_s": 150.0}, "a step, the save in flight, the last one"
    assert rhythm.learn(Cost(60.0, 61.0))[-1][0] != "grace_too_short"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({}, (None, "auto")),
        ({"+checkpoint": "2h"}, (None, 7200.0)),
        ({"+checkpoint": "30m"}, (None, 1800.0)),
        ({"+checkpoint": "500steps"}, (500, None)),
        ({"+checkpoint": "auto"}, (None, "auto")),
        ({"train.checkpoint.every_s": 60}, (None, 60.0)),
        ({"train.checkpoint.every_s": "null"}, (None, None)),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_when_to_save_in_one_word(tmp_path, words, expected):
    plain = [w for w in tiny_words(tmp_path, **words) if "every_steps" not in w]
    demo = [*plain, "train.checkpoint.every_steps=null"] if "+checkpoint" not in words else plain
    if not words:
        demo.append("train.checkpoint.every_s=auto")
    found = compose_experiment(demo)[1].train.checkpoint
    assert (found.every_steps, found.every_s) == expected
