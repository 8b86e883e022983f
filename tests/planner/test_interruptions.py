import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.interruptions import (
    Losses,
    daly_interval,
    failures_per_s,
    goodput,
    goodput_on_the_wall,
    overhead,
    young_interval,
)

_EVERY_6_H = 1 / (6 * 3600)
_HARDWARE = failures_per_s(2.0)


def _two_nodes(*, save_s=60.0, restart_s=300.0, handler=True):
    """Two nodes, preempted every six hours, half an hour of queue."""
    return Losses(
        save_s=save_s,
        final_save_s=60.0,
        restart_s=restart_s,
        ungraceful_per_s=_HARDWARE + (0.0 if handler else _EVERY_6_H),
        graceful_per_s=_EVERY_6_H if handler else 0.0,
        queue_s=1800.0,
    )


@pytest.mark.parametrize(
    ("losses", "interval_min", "run", "wall"),
    [
        (_two_nodes(handler=False), 180, 78.7, 73.9),
        (_two_nodes(handler=False), 27, 91.9, 85.3),
        (_two_nodes(), 30, 95.2, 88.2),
        (_two_nodes(save_s=5.0), 30, 98.1, 90.6),
        (_two_nodes(save_s=5.0, restart_s=120.0), 30, 98.9, 91.3),
    ],
    ids=["every 3 h", "Young", "handler", "asynchronous save", "quick restart"],
)
def test_known_table_of_effective_training_time(losses, interval_min, run, wall):
    assert 100 * goodput(interval_min * 60, losses) == pytest.approx(run, abs=0.15)
    assert 100 * goodput_on_the_wall(interval_min * 60, losses) == pytest.approx(wall, abs=0.15)


def test_two_nodes_fail_every_eleven_weeks():
    assert 1 / failures_per_s(2.0) / 86_400 == pytest.approx(77, abs=0.5)
    assert 1 / failures_per_s(16.0) / 86_400 == pytest.approx(10, abs=0.5)


def test_a_save_longer_than_the_time_between_failures_is_done_once_in_between():
    assert daly_interval(1000.0, 400.0) == 400.0


_SECONDS = st.floats(0.1, 3600)
_RATE = st.floats(0, 1e-3)


@given(_SECONDS, _SECONDS, _SECONDS, _RATE, _RATE, st.floats(1, 1e6), _SECONDS)
def test_goodput_is_a_share_and_queues_only_lower_it(save, last, restart, lu, lg, interval, queue):
    losses = Losses(save, last, restart, lu, lg, queue)
    assert 0 < goodput_on_the_wall(interval, losses) <= goodput(interval, losses) <= 1


@given(st.floats(0.1, 600), st.floats(1e4, 1e7), st.floats(0.2, 5.0))
def test_no_interval_loses_less_than_youngs(save, mean_time, factor):
    losses = Losses(save, save, 0.0, ungraceful_per_s=1 / mean_time)
    best = young_interval(save, mean_time)
    assert overhead(best, losses) <= overhead(best * factor, losses) * (1 + 1e-9)


@given(st.floats(0.1, 600), st.floats(1e4, 1e7))
def test_daly_differs_little_from_young_where_saves_are_short(save, mean_time):
    daly, young = daly_interval(save, mean_time), young_interval(save, mean_time)
    assert 0.6 * young < daly <= young
