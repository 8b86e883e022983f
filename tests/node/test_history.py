"""The attempts are read back from the run directory as the retry rules need them."""

import pytest

from hpcjobs.node.history import Start, read_history, read_start, write_start
from hpcjobs.node.retry import AttemptEnd
from hpcjobs.run.files import make_private_dir
from hpcjobs.run.layout import RunDir
from hpcjobs.run.verdict import Verdict, write_verdict

CRASH = Verdict("failed", "x", 5, 1, cause="crash", root="a")


@pytest.fixture
def run(tmp_path):
    run = RunDir(tmp_path / "run")
    make_private_dir(run.path)
    return run


def attempt(run, start, verdict):
    number = run.new_attempt()
    write_start(run.attempt(number), start)
    if verdict is not None:
        write_verdict(run.attempt(number).verdict, verdict)


def test_cause_root_and_progress_come_back(run):
    attempt(run, Start(0, "7", 0, ("n1", "n2")), CRASH)
    attempt(run, Start(5, "7", 0, ("n1", "n2")), Verdict("checkpointed", "y", 9, cause="preempted"))
    assert read_history(run, 3, Start(9, "7", 1)) == [
        AttemptEnd("crash", "a", 0, 5, ("n1", "n2")),
        AttemptEnd("preempted", None, 5, 9, ("n1", "n2")),
    ]


@pytest.mark.parametrize(
    ("now", "cause"),
    [
        (Start(4, "7", 1), "preempted"),  # Slurm took the job away and ran it again
        (Start(4, "7", 0), "unknown"),
        (Start(4, "8", 0), "unknown"),
        (Start(4, None, 0), "unknown"),
    ],
)
def test_an_attempt_without_a_verdict_is_judged_by_what_followed(run, now, cause):
    attempt(run, Start(0, "7", 0), None)
    assert read_history(run, 2, now) == [AttemptEnd(cause, None, 0, 4)]


@pytest.mark.parametrize("status", ["never", "cancelled", "done"])
def test_after_a_stop_the_history_begins_anew(run, status):
    attempt(run, Start(0), CRASH)
    attempt(run, Start(5), Verdict(status, "x", 5))
    attempt(run, Start(5), CRASH)
    assert read_history(run, 4, Start(5)) == [AttemptEnd("crash", "a", 5, 5)]


def test_an_attempt_of_another_version_counts_without_its_start(run):
    number = run.new_attempt()
    run.attempt(number).start.write_text('{"x": 1}')
    assert read_start(run.attempt(number)) is None
    write_verdict(run.attempt(number).verdict, Verdict("failed", "x"))
    assert read_history(run, 2, Start(3)) == [AttemptEnd("crash", None, 0, 3)]
