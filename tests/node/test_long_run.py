"""The simulation of a long run: the retry rules decide, the figures are those of the report."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.long_run.assumptions import DAY_S, Assumptions
from benchmarks.long_run.simulation import simulate
from benchmarks.simulate_long_run import AIM, RATES, REPORT, SMALL, figures, page


@pytest.fixture(scope="module")
def report():
    return json.loads((REPORT / "report.json").read_text())


def test_the_committed_figures_come_from_this_code(report):
    world = Assumptions(**report["assumptions"])
    assert figures(world, range(SMALL)) == report["small"]
    assert page(report) == (REPORT / "report.md").read_text()


@pytest.mark.parametrize("rate", RATES)
def test_the_aim_is_met_and_the_closed_form_agrees(report, rate):
    found = report["by_rate"][str(rate)]
    assert found["ettr_run"]["mean"] - found["ettr_run"]["ci95"] >= AIM
    for name in ("ettr_run", "ettr_wall"):
        assert found[name]["mean"] == pytest.approx(found["closed_form"][name], abs=0.001)


@settings(max_examples=50)
@given(
    st.integers(0, 2**31),
    st.floats(0, 300),
    st.floats(0, 12),
    st.booleans(),
    st.floats(0, 1),
    st.floats(0.5, 20),
)
def test_every_second_is_accounted_for(seed, failures, preemptions, notice, share, days):
    world = Assumptions(
        training_days=days, failures_per_1000_node_days=failures, preemptions_per_day=preemptions,
        notice=notice, node_share=share,
    )  # fmt: skip
    account = simulate(world, seed)
    assert account.seconds["training"] == pytest.approx(days * DAY_S, abs=world.step_s)
    assert min(account.seconds.values()) >= 0
    assert account.allocated_s <= account.wall_s
    if notice and failures == 0:
        assert account.seconds["lost_work"] == 0
    again = simulate(world, seed)
    assert again == account


def test_the_rules_stop_a_run_that_gets_nowhere():
    """Failures every ten minutes leave no time to a save of an hour."""
    world = Assumptions(
        training_days=0.05, failures_per_1000_node_days=144_000 / 10, save_s=3600, stall_share=0
    )
    assert simulate(world, 1).ends["stopped"] > 0


def test_what_is_worse_in_the_world_is_worse_in_the_figures():
    world = Assumptions()
    base = figures(world, range(SMALL))["ettr_run"]["mean"]
    for change in ({"notice": False}, {"stall_share": 1.0}, {"restart_requeue_s": 900.0}):
        assert (
            figures(dataclasses.replace(world, **change), range(SMALL))["ettr_run"]["mean"] < base
        )
