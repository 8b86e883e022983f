"""The rules for another try: every case in a table, and what holds for every history."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcjobs.node.retry import (
    BACKOFF_S,
    FAILURES,
    FINAL,
    LOST,
    AttemptEnd,
    Decision,
    Limits,
    decide,
    since_progress,
)

LIMITS = Limits(failures=3, interruptions=5)
GOING_ON = ("restart", "later")


def end(cause, before=0, after=None, root=None):
    return AttemptEnd(cause, root, before, before if after is None else after)


@pytest.mark.parametrize(
    ("history", "kind", "reason"),
    [
        ([end("done")], "done", "finished"),
        ([end("cancelled")], "stop", "cancelled"),
        ([end("never")], "stop", "fail again"),
        ([end("storage_full", 0, 50)], "stop", "disk is full"),
        ([end("card_memory", 0, 50)], "stop", "memory"),
        ([end("preempted")], "later", "preempted"),
        ([end("time_limit", 0, 9)], "later", "time limit"),
        ([end("node")], "later", "node"),
        ([end("interrupted", 0, 5)], "restart", "allocation stays"),
        ([end("crash")], "restart", "failure 1 of 3"),
        ([end("hang")], "restart", "failure 1 of 3"),
        ([end("unknown")], "restart", "failure 1 of 3"),
        ([end("crash", 0, 10)], "restart", "progress"),
        ([end("crash", root="a")] * 3, "stop", "the same failure 3 times"),
        ([end("crash", root=r) for r in "aba"], "stop", "2 different failures 3 times"),
        ([end("crash"), end("hang"), end("unknown")], "stop", "3 failures without"),
        ([end("crash"), end("crash"), end("crash", 0, 4)], "restart", "progress"),
        ([end("crash", 0, 4), end("crash", 4), end("crash", 4)], "restart", "failure 2 of 3"),
        ([end("crash", 0, 4)] + [end("crash", 4)] * 3, "stop", "3 failures"),
        ([end("crash"), end("preempted"), end("crash"), end("preempted"), end("crash")],
         "stop", "3 failures"),
        ([end("preempted")] * 4, "later", "preempted"),
        ([end("preempted")] * 5, "stop", "5 interruptions without a new checkpoint"),
        ([end("preempted"), end("interrupted")] * 2 + [end("node")], "stop", "5 interruptions"),
        ([end("crash"), end("crash"), end("preempted")], "later", "preempted"),
    ],
)  # fmt: skip
def test_each_history_has_its_consequence(history, kind, reason):
    decision = decide(history, LIMITS)
    assert decision.kind == kind
    assert reason in decision.reason
    assert decision.cause == history[-1].cause


def test_a_run_that_stops_says_how_often_and_why():
    history = [end("crash", root="ValueError: #")] * 3
    assert decide(history, LIMITS) == Decision(
        "stop", "crash", "the same failure 3 times without a new checkpoint"
    )


def test_repeated_failures_wait_longer():
    waits = [decide([end("crash")] * count, Limits(failures=9)).backoff_s for count in range(1, 8)]
    assert waits == [*BACKOFF_S, *[BACKOFF_S[-1]] * 3]
    assert decide([end("crash")] * 5 + [end("crash", 0, 1)], Limits(failures=9)).backoff_s == 0


def test_a_checkpoint_that_is_written_again_is_no_progress():
    """Each attempt finds the checkpoint of step 10 broken, goes back to 5, and writes 10 again."""
    history = [end("crash", 0, 10)] + [end("crash", 5, 10)] * 3
    assert decide(history, LIMITS).kind == "stop"


def test_fifty_preemptions_with_progress_leave_the_failure_budget_untouched():
    history = [end("preempted", step, step + 1) for step in range(50)]
    assert decide(history, LIMITS).kind == "later"
    assert (
        decide([*history, end("crash", 50)], LIMITS).reason
        == "failure 1 of 3 without a new checkpoint"
    )


causes = st.sampled_from(sorted(FAILURES | LOST | {"interrupted"}))
roots = st.sampled_from([None, "a", "b", "c"])
limits = st.builds(Limits, st.integers(1, 6), st.integers(1, 9))


@st.composite
def histories(draw, min_size=1, max_size=40):
    """Attempts as they come: each begins where the committed checkpoints stood."""
    step, ends = 0, []
    for _ in range(draw(st.integers(min_size, max_size))):
        after = step + draw(st.sampled_from([0, 0, 0, 1, 7]))
        ends.append(AttemptEnd(draw(causes), draw(roots), step, after))
        step = after
    return ends


@given(st.lists(st.tuples(causes, roots), min_size=20, max_size=30), limits)
def test_without_progress_every_run_ends(ends, limit):
    """Whatever the causes, their order and their roots: nothing alternates for ever."""
    history = [AttemptEnd(cause, root, 7, 7) for cause, root in ends]
    most = limit.failures + limit.interruptions - 1
    kinds = [decide(history[: n + 1], limit).kind for n in range(len(history))]
    assert "stop" in kinds[:most]


@given(histories(), limits)
def test_interruptions_never_spend_the_failure_budget(history, limit):
    """With and without them, the failures count alike."""
    failing = [*history, AttemptEnd("crash", None, history[-1].step_after, history[-1].step_after)]
    counted = [e for e in since_progress(failing) if e.cause in FAILURES]
    decision = decide(failing, limit)
    assert (decision.kind == "stop") == (len(counted) >= limit.failures)


@given(histories(), limits)
def test_progress_fills_both_budgets(history, limit):
    step = history[-1].step_after
    for cause in sorted(FAILURES | LOST | {"interrupted"}):
        decision = decide([*history, AttemptEnd(cause, None, step, step + 1)], limit)
        assert decision.kind in GOING_ON
        assert decision.backoff_s == 0


@given(histories(), st.sampled_from(sorted(FINAL)), limits)
def test_what_would_end_alike_again_is_never_tried_again(history, cause, limit):
    assert decide([*history, end(cause, 0, 99)], limit).kind == "stop"


def test_every_cause_has_a_rule():
    from typing import get_args

    from hpcjobs.run.verdict import Cause

    for cause, count in itertools.product(get_args(Cause), (1, 9)):
        assert decide([end(cause)] * count).kind in {"done", "restart", "later", "stop"}
