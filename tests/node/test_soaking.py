"""The soak's plan and its account: what is drawn, and what the formula promises."""

import itertools
import os
import subprocess
import sys
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.soaking.account import (
    Costs,
    expected_overhead,
    mean_gap_s,
    pure_step_s,
    repeated_steps,
    saving_share,
)
from benchmarks.soaking.plan import ABRUPT, CLASS, LONGEST_GAP, WAYS, classes, plan_kills
from benchmarks.soaking.victims import victims
from planner.interruptions import Losses, overhead

COSTS = Costs(0.1, 0.03, 2.0, dict.fromkeys(CLASS.values(), 8.0))


def test_a_seed_is_a_plan():
    assert plan_kills(50, 7) == plan_kills(50, 7)
    assert plan_kills(50, 7) != plan_kills(50, 8)
    assert plan_kills(200, 1)[:50] == plan_kills(50, 1)


def test_two_hundred_kills_hold_every_way_and_enough_saves():
    kills = plan_kills(200, 1)
    assert {kill.way for kill in kills} == set(WAYS)
    moments = Counter(kill.moment for kill in kills)
    assert moments["save"] >= 40
    assert moments["start"] >= 3
    assert all(0 < kill.gap <= LONGEST_GAP for kill in kills)


@given(st.integers(0, 10_000))
def test_no_plan_uses_up_the_budget_of_failures(seed):
    """Kills during a start leave no progress; three failures without any would stop the run."""
    kills = plan_kills(100, seed)
    assert kills[0].moment != "start"
    for kill, following in itertools.pairwise(kills):
        assert not (kill.moment == following.moment == "start")


@pytest.mark.parametrize("target", [0.3, 0.42, 0.5])
def test_the_gap_makes_the_expected_overhead_the_target(target):
    shares = classes(plan_kills(200, 1))
    gap_s = mean_gap_s(COSTS, shares, target)
    useful_s = 200 * gap_s
    counts = {kind: 200 * share for kind, share in shares.items()}
    assert expected_overhead(COSTS, counts, useful_s) == pytest.approx(target, abs=1e-6)


def test_the_account_is_the_planners_formula():
    """One restart cost for all: then it is the closed form of docs/reliability.md."""
    counts = {"crash in place": 30, "stop in place": 20, "requeue": 5}
    useful_s = 1000.0
    abrupt = sum(n for kind, n in counts.items() if kind in ABRUPT)
    losses = Losses(
        save_s=COSTS.save_share * COSTS.interval_s, final_save_s=0.0, restart_s=8.0,
        ungraceful_per_s=abrupt / useful_s, graceful_per_s=25 / useful_s,
    )  # fmt: skip
    expected = overhead(COSTS.interval_s, losses)
    assert expected_overhead(COSTS, counts, useful_s) == pytest.approx(expected)


def line(step, attempt=1, step_s=0.1):
    return {"step": step, "attempt": attempt, "step_s": step_s}


def test_steps_next_to_saves_and_first_steps_are_no_measure_of_a_step():
    lines = [line(step, step_s=0.5 if step % 10 < 5 else 0.1) for step in range(1, 101)]
    lines[0]["step_s"] = 9.0
    assert pure_step_s(lines, 10) == pytest.approx(0.1)
    assert saving_share(lines, 10) == pytest.approx(2.0, abs=0.05)


def test_steps_that_were_trained_again_are_counted():
    lines = [line(1), line(2), line(3), line(2, 2), line(3, 2), line(3, 3)]
    assert repeated_steps(lines) == 3


def test_victims_are_the_runs_own_main_processes(tmp_path):
    """Real processes with such command lines; a rank counts only below an agent."""
    agent = "import subprocess, sys, time; subprocess.Popen(sys.argv[-2:]); time.sleep(60)"
    rank = tmp_path / "rank.sh"
    rank.write_text(f'#!/bin/sh\nexec {sys.executable} -c "import time; time.sleep(60)" '
                    f'train.zip --run {tmp_path} --attempt 1\n')  # fmt: skip
    rank.chmod(0o700)
    words = [sys.executable, "-c", agent, "node.pyz", "agent", str(tmp_path), str(rank), "x"]
    process = subprocess.Popen(words, env={**os.environ, "RANK": "3", "SLURM_NODEID": "1"})
    try:
        deadline = time.monotonic() + 30
        while not victims(tmp_path, "rank") and time.monotonic() < deadline:
            time.sleep(0.05)
        (found,) = victims(tmp_path, "rank")
        assert found.number == 3
        assert [(v.pid, v.number) for v in victims(tmp_path, "agent")] == [(process.pid, 1)]
        assert victims(tmp_path, "broker") == []
        assert victims(tmp_path / "other", "rank") == []
        os.kill(found.pid, 9)
    finally:
        process.kill()
        process.wait()
