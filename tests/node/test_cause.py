"""Why an attempt ended, from its verdict, Slurm's word and the signals: a table of every case."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcjobs.node.cause import Circumstances, cause_of, is_restarted
from hpcjobs.node.retry import AttemptEnd, decide
from hpcjobs.node.slurm import JobView
from hpcjobs.run.verdict import Verdict

DONE = Verdict("done", "all steps", 10, 0)
SAVED = Verdict("checkpointed", "stopped on SIGTERM", 4, 0)
CRASH = Verdict("failed", "rank 1 was killed by signal 11", 4, 1, cause="crash")
HANG = Verdict("failed", "rank 1 is behind", 4, 1, cause="hang")
UNFIT = Verdict("failed", "node2: the disk is full", cause="node", node="node2")
NEVER = Verdict("never", "cat.png is missing", None, 0)
FULL = Verdict("never", "the disk is full", None, 0, cause="storage_full")
UNKNOWN = Verdict("unknown", "no process left a verdict")

NOW = 1_000_000.0
RUNNING = JobView("RUNNING", False, 0, ends_at=NOW + 9000)
NEAR = JobView("RUNNING", False, 0, ends_at=NOW + 150)
ENDLESS = JobView("RUNNING", False, 0)
PREEMPTED = JobView("RUNNING", True, 0, ends_at=NOW + 20)
SIGNALED = JobView("SIGNALING", True, 0)
ENDING = JobView("COMPLETING", False, 0)
KILLED = JobView("PREEMPTED", False, 0)
REQUEUED = JobView("COMPLETING", False, 1)
LOST = JobView("COMPLETING", False, 1, reason="NodeDown")
NODE_FAIL = JobView("NODE_FAIL", False, 0)
TIMED_OUT = JobView("COMPLETING", False, 0, reason="TimeLimit")
BROKER, AGENTS, BOTH, NOBODY = (True, False), (False, True), (True, True), (False, False)


@pytest.mark.parametrize(
    ("verdict", "job", "told", "cause", "kind"),
    [
        (DONE, RUNNING, NOBODY, "done", "done"),
        (DONE, ENDING, BOTH, "done", "done"),
        (NEVER, PREEMPTED, BOTH, "never", "stop"),
        (FULL, RUNNING, NOBODY, "storage_full", "stop"),
        # a lost allocation, however it is heard of
        (SAVED, PREEMPTED, AGENTS, "preempted", "later"),
        (SAVED, PREEMPTED, NOBODY, "preempted", "later"),
        (SAVED, SIGNALED, BROKER, "preempted", "later"),
        (CRASH, PREEMPTED, NOBODY, "preempted", "later"),
        (UNKNOWN, PREEMPTED, AGENTS, "preempted", "later"),
        (SAVED, KILLED, BOTH, "preempted", "later"),
        (UNKNOWN, REQUEUED, BOTH, "preempted", "later"),
        (CRASH, LOST, BOTH, "node", "later"),
        (UNKNOWN, NODE_FAIL, BOTH, "node", "later"),
        (SAVED, NEAR, BROKER, "time_limit", "later"),
        (SAVED, NEAR, AGENTS, "time_limit", "later"),
        (CRASH, TIMED_OUT, BOTH, "time_limit", "later"),
        (SAVED, RUNNING, BROKER, "stopped", "later"),
        (UNKNOWN, ENDLESS, BROKER, "stopped", "later"),
        (SAVED, None, BROKER, "stopped", "later"),
        (UNFIT, RUNNING, NOBODY, "node", "later"),
        # a person's word
        (SAVED, ENDING, BOTH, "cancelled", "stop"),
        (CRASH, ENDING, NOBODY, "cancelled", "stop"),
        (UNKNOWN, ENDING, BOTH, "cancelled", "stop"),
        (UNFIT, ENDING, NOBODY, "cancelled", "stop"),
        # the allocation stays
        (SAVED, RUNNING, AGENTS, "interrupted", "restart"),
        (SAVED, RUNNING, NOBODY, "interrupted", "restart"),
        (SAVED, None, NOBODY, "interrupted", "restart"),
        (CRASH, RUNNING, AGENTS, "interrupted", "restart"),
        (CRASH, RUNNING, NOBODY, "crash", "restart"),
        (CRASH, NEAR, NOBODY, "crash", "restart"),
        (CRASH, None, NOBODY, "crash", "restart"),
        (HANG, RUNNING, NOBODY, "hang", "restart"),
        (UNKNOWN, RUNNING, NOBODY, "unknown", "restart"),
        (UNKNOWN, None, NOBODY, "unknown", "restart"),
    ],
)
def test_each_end_has_its_cause_and_consequence(verdict, job, told, cause, kind):
    seen = Circumstances(job, 0, *told, now=NOW)
    assert cause_of(verdict, seen) == cause
    assert decide([AttemptEnd(cause)]).kind == kind


verdicts = st.sampled_from([SAVED, CRASH, HANG, UNFIT, UNKNOWN])


@given(verdicts, st.booleans(), st.booleans(), st.integers(0, 5))
def test_a_job_that_slurm_is_ending_never_runs_again(verdict, broker_told, agents_told, restarts):
    job = JobView("COMPLETING", preempted=False, restarts=restarts)
    seen = Circumstances(job, restarts, broker_told, agents_told)
    assert cause_of(verdict, seen) == "cancelled"
    assert decide([AttemptEnd("cancelled")]).kind == "stop"


@given(verdicts, st.booleans(), st.sampled_from([RUNNING, NEAR, ENDLESS, PREEMPTED, None]))
def test_after_the_broker_was_told_nothing_starts_in_place(verdict, agents_told, job):
    cause = cause_of(verdict, Circumstances(job, 0, True, agents_told, NOW))
    assert decide([AttemptEnd(cause)]).kind == "later"


@pytest.mark.parametrize(
    ("job", "restarts", "yes"), [(REQUEUED, 0, True), (REQUEUED, 1, False), (None, 0, False)]
)
def test_a_job_that_slurm_has_requeued_is_told_by_its_count(job, restarts, yes):
    assert is_restarted(job, restarts) is yes
