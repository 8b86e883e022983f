"""What follows from the end of an attempt: a table of every case."""

import pytest

from hpcjobs.node.decide import EXIT_DONE, EXIT_FAILED, EXIT_NEVER, EXIT_RESUMABLE, decide
from hpcjobs.node.slurm import JobView
from hpcjobs.run.verdict import Verdict

DONE = Verdict("done", "all steps", 10, 0)
SAVED = Verdict("checkpointed", "stopped on SIGTERM", 4, 0)
CRASH = Verdict("failed", "rank 1 was killed by signal 11", 4, 1)
NEVER = Verdict("never", "cat.png is missing", None, 0)
UNKNOWN = Verdict("unknown", "no process left a verdict")

RUNNING = JobView("RUNNING", preempted=False, restarts=0)
PREEMPTED = JobView("RUNNING", preempted=True, restarts=0)
SIGNALED = JobView("SIGNALING", preempted=True, restarts=0)
CANCELLED = JobView("COMPLETING", preempted=False, restarts=0)
REQUEUED = JobView("COMPLETING", preempted=False, restarts=1)
TIMED_OUT = JobView("COMPLETING", preempted=False, restarts=0, reason="TimeLimit")


@pytest.mark.parametrize(
    ("verdict", "job", "asked", "may", "kind", "status", "code"),
    [
        (DONE, RUNNING, False, True, "exit", "done", EXIT_DONE),
        (DONE, None, False, True, "exit", "done", EXIT_DONE),
        (DONE, CANCELLED, True, True, "exit", "done", EXIT_DONE),
        (NEVER, PREEMPTED, True, True, "exit", "never", EXIT_NEVER),
        (SAVED, PREEMPTED, False, True, "requeue", "checkpointed", EXIT_RESUMABLE),
        (SAVED, SIGNALED, False, True, "requeue", "checkpointed", EXIT_RESUMABLE),
        (SAVED, RUNNING, True, True, "requeue", "checkpointed", EXIT_RESUMABLE),
        (SAVED, RUNNING, True, False, "exit", "checkpointed", EXIT_RESUMABLE),
        (SAVED, CANCELLED, True, True, "exit", "cancelled", EXIT_RESUMABLE),
        (CRASH, CANCELLED, True, True, "exit", "cancelled", EXIT_RESUMABLE),
        (UNKNOWN, CANCELLED, True, True, "exit", "cancelled", EXIT_RESUMABLE),
        (SAVED, REQUEUED, True, True, "exit", "checkpointed", EXIT_RESUMABLE),
        (UNKNOWN, REQUEUED, True, True, "exit", "unknown", EXIT_RESUMABLE),
        (SAVED, TIMED_OUT, True, True, "exit", "checkpointed", EXIT_RESUMABLE),
        (CRASH, PREEMPTED, False, True, "requeue", "failed", EXIT_RESUMABLE),
        (UNKNOWN, RUNNING, True, True, "requeue", "unknown", EXIT_RESUMABLE),
        (CRASH, RUNNING, False, True, "exit", "failed", EXIT_FAILED),
        (UNKNOWN, RUNNING, False, True, "exit", "unknown", EXIT_FAILED),
        (SAVED, None, True, True, "exit", "checkpointed", EXIT_RESUMABLE),
        (CRASH, None, False, True, "exit", "failed", EXIT_FAILED),
    ],
)
def test_each_end_has_its_consequence(verdict, job, asked, may, kind, status, code):
    action = decide(verdict, job, asked_to_stop=asked, may_requeue=may)
    assert (action.kind, action.status, action.exit_code) == (kind, status, code)


@pytest.mark.parametrize("restarts", [0, 3])
@pytest.mark.parametrize("verdict", [DONE, SAVED, CRASH, NEVER, UNKNOWN])
@pytest.mark.parametrize("asked", [True, False])
def test_a_cancelled_job_is_never_requeued(verdict, asked, restarts):
    job = JobView("COMPLETING", preempted=False, restarts=restarts)
    assert decide(verdict, job, asked, may_requeue=True, restarts=restarts).kind == "exit"
