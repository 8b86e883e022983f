"""Slurm's answers are read by total functions; no answer is never read as a failure."""

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcjobs.node import slurm
from hpcjobs.node.slurm import (
    JobView,
    Refused,
    job_alive,
    parse_job,
    run_command,
    view_job,
)

LINE = (
    "JobId=12 JobName=a UserId=root(0) JobState=RUNNING Reason=None Requeue=1 "
    "Restarts=2 PreemptTime=2026-11-22T10:00:00 SuspendTime=None"
)


def answers(returncode, out="", err=""):
    return lambda argv: subprocess.CompletedProcess(argv, returncode, out, err)


@pytest.mark.parametrize(
    ("text", "view"),
    [
        ("JobState=PENDING Reason=Priority Restarts=0", JobView("PENDING", False, 0, "Priority")),
        ("JobState=RUNNING PreemptTime=2026-11-22T10:00:00", JobView("RUNNING", True, 0)),
        (LINE, JobView("RUNNING", True, 2)),
        (f"{LINE} WorkDir=/a JobState=FAILED Reason=x Restarts=9", JobView("RUNNING", True, 2)),
        ("JobState=CANCELLED+ Restarts=x", JobView("CANCELLED", False, 0)),
        ("JobState=RESIZING EndTime=Unknown", JobView("RESIZING", False, 0)),
        ("JobState=+ Restarts=1", None),
        ("", None),
        ("slurm_load_jobs error: Unable to contact slurm controller", None),
    ],
)
def test_a_job_line_is_read(text, view):
    assert parse_job(text) == view


FIELDS = ("JobState", "Reason", "PreemptTime", "EndTime", "Restarts", "Command")
WORDS = st.one_of(
    st.text(),
    st.sampled_from(["RUNNING", "COMPLETING", "None", "2026-11-22T10:00:00", "9999-99-99T1:1:1"]),
)


@given(st.one_of(st.text(), st.lists(st.tuples(st.sampled_from(FIELDS), WORDS)).map(
    lambda pairs: " ".join(f"{name}={word}" for name, word in pairs)
)))  # fmt: skip
def test_any_text_is_read_or_unknown(text):
    """Of an answer that cannot be read follows nothing: least of all that a job is dead."""
    view = parse_job(text)
    assert view is None or (view.state and view.restarts >= 0)
    asked = view_job("12", answers(0, text))
    assert (asked is None) is (view is None)
    if view is None:
        assert job_alive("12", answers(0, text)) is None


def ending(preempted, ended, reason="None", restarts=0):
    return (
        f"JobId=12 JobState=COMPLETING Reason={reason} Restarts={restarts} "
        f"EndTime=2026-11-22T{ended} PreemptEligibleTime=2026-11-22T10:00:00 "
        f"PreemptTime={preempted} SuspendTime=None"
    )


@pytest.mark.parametrize(
    ("line", "state"),
    [  # each as Slurm 22.05 wrote it, but for the clock
        (ending("2026-11-22T22:22:59", "22:22:59"), "PREEMPTED"),  # CANCEL, or --no-requeue
        (ending("2026-11-22T22:25:43", "22:25:46"), "COMPLETING"),  # scancel in the grace time
        (ending("None", "22:25:46"), "COMPLETING"),  # scancel
        (ending("None", "22:53:14", restarts=1), "COMPLETING"),  # requeued
        (ending("None", "22:27:23", "NodeDown"), "NODE_FAIL"),
        (ending("None", "22:27:23", "TimeLimit"), "TIMEOUT"),
    ],
)
def test_why_slurm_is_ending_a_job(line, state):
    assert view_job("12", answers(0, line)).state == state


@pytest.mark.parametrize("fault", [124, 127])
def test_without_an_answer_of_scontrol_squeue_is_asked(fault):
    columns = [
        ("COMPLETING", 32),
        ("None", 64),
        ("2026-11-22T22:49:20", 32),
        ("2026-11-22T22:49:20", 32),
        ("1", 12),
    ]
    line = "".join(text.ljust(width) for text, width in columns) + "\n"
    view = view_job("12", scripted(answers(fault), answers(0, line)))
    assert (view.state, view.preempted, view.restarts) == ("PREEMPTED", True, 1)
    assert view_job("12", scripted(answers(fault), answers(1))) is None
    assert view_job("12", scripted(answers(fault), answers(0, "\n"))) is None


def test_the_end_of_a_job_is_a_time_or_unknown():
    assert parse_job("JobState=RUNNING EndTime=1970-01-02T00:00:00").ends_at == pytest.approx(
        86400, abs=86400
    )
    assert parse_job("JobState=RUNNING EndTime=Unknown").ends_at is None


@pytest.mark.parametrize(
    ("answer", "alive"),
    [
        (answers(0, "JobState=RUNNING"), True),
        (answers(0, "JobState=PENDING"), True),
        (answers(0, "JobState=COMPLETING"), True),
        (answers(0, "JobState=A_STATE_OF_TOMORROW"), True),
        (answers(0, "JobState=RESIZING"), True),
        (answers(0, "JobState=CANCELLED+"), False),
        (answers(0, "JobId=12 JobState=FAILED\nJobId=13 HetJobId=12 JobState=RUNNING\n"), True),
        (answers(0, "JobId=12 ArrayTaskId=1 JobState=FAILED\n\nJobId=13 JobState=TIMEOUT"), False),
        (answers(0, "JobState=FAILED\nno answer that is known"), None),
        (answers(0, "JobState=COMPLETED"), False),
        (answers(0, "JobState=NODE_FAIL"), False),
        (answers(1, "", "slurm_load_jobs error: Invalid job id specified"), False),
        (answers(1, "", "Unable to contact slurm controller (connect failure)"), None),
        (answers(124), None),
        (answers(127), None),
        (answers(0, ""), None),
    ],
)
def test_a_job_is_dead_only_on_evidence(answer, alive):
    assert job_alive("12", answer) is alive


def test_a_controller_that_does_not_answer_gives_no_view():
    assert view_job("12", answers(1)) is None


def test_a_missing_command_is_an_answer_not_an_exception():
    assert run_command(["hpcjobs-no-such-command"]).returncode == 127


def test_a_command_that_is_no_program_is_an_answer_too(tmp_path):
    assert run_command([str(tmp_path)]).returncode == 127


def test_an_answer_in_no_encoding_is_read():
    assert "Restarts=1" in run_command(["printf", r"\xff Restarts=1"]).stdout


def test_variables_that_change_an_answer_stay_here(monkeypatch):
    monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")
    monkeypatch.setenv("SQUEUE_STATES", "FAILED")
    monkeypatch.setenv("SLURM_CONF", "/etc/here.conf")
    out = run_command(["env"]).stdout
    assert "SLURM_CONF=/etc/here.conf" in out
    assert "SLURM_TIME_FORMAT" not in out
    assert "SQUEUE_STATES" not in out


def test_a_signal_to_all_of_the_job_does_not_kill_the_command():
    answer = run_command(["sh", "-c", "kill -TERM $$; kill -USR2 $$; echo heard"])
    assert (answer.returncode, answer.stdout) == (0, "heard\n")


def test_a_hanging_command_is_given_up(monkeypatch):
    monkeypatch.setattr(slurm, "_ANSWER_TIMEOUT_S", 0.2)
    assert run_command(["sleep", "60"]).returncode == 124


@pytest.mark.parametrize(
    ("answer", "configured"),
    [
        (answers(0, "Slurmctld(primary) at n1 is UP"), True),
        (answers(1, "Slurmctld(primary) at n1 is DOWN"), True),
        (answers(124), True),
        (answers(127), False),
        (answers(1, err="scontrol: fatal: Could not establish a configuration source"), False),
    ],
)
def test_installed_packages_alone_are_no_cluster(answer, configured):
    assert slurm.is_configured(answer) is configured


def scripted(*results):
    """Answers one command after another."""
    left = list(results)
    return lambda argv: left.pop(0)(argv)  # noqa: PLW0108


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (scripted(answers(0)), None),
        (scripted(answers(-15), answers(0, "JobState=COMPLETING Restarts=3")), None),
        (
            scripted(answers(1, err="disabled"), answers(0, "JobState=RUNNING Restarts=2")),
            Refused("disabled", passing=False),
        ),
        (scripted(answers(124), answers(1), answers(1)), Refused("exit code 124", passing=False)),
        (
            scripted(answers(1, err="Zero Bytes were transmitted or received"), answers(1)),
            Refused("Zero Bytes were transmitted or received", passing=True),
        ),
    ],
)
def test_a_requeue_counts_by_what_slurm_did_not_by_its_exit_code(run, said):
    assert slurm.requeue("12", 2, run) == said
