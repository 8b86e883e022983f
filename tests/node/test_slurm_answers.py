"""Slurm's answers are read by total functions; no answer is never read as a failure."""

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcjobs.node import slurm
from hpcjobs.node.slurm import JobView, first_host, job_alive, parse_job, run_command, view_job

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
        ("", None),
        ("slurm_load_jobs error: Unable to contact slurm controller", None),
    ],
)
def test_a_job_line_is_read(text, view):
    assert parse_job(text) == view


@given(st.text())
def test_any_text_is_read_or_unknown(text):
    view = parse_job(text)
    assert view is None or (view.state and view.restarts >= 0)


@pytest.mark.parametrize(
    ("answer", "alive"),
    [
        (answers(0, "JobState=RUNNING"), True),
        (answers(0, "JobState=PENDING"), True),
        (answers(0, "JobState=COMPLETING"), True),
        (answers(0, "JobState=A_STATE_OF_TOMORROW"), True),
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


def test_a_hanging_command_is_given_up(monkeypatch):
    monkeypatch.setattr(slurm, "_ANSWER_TIMEOUT_S", 0.2)
    assert run_command(["sleep", "60"]).returncode == 124


@pytest.mark.parametrize(
    ("answer", "host"),
    [(answers(0, "n1\nn2\n"), "n1"), (answers(1), "n[1-2]"), (answers(0), "n[1-2]")],
)
def test_the_first_host_or_the_list_itself(answer, host):
    assert first_host("n[1-2]", answer) == host


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
            "disabled",
        ),
        (scripted(answers(124), answers(1)), "exit code 124"),
    ],
)
def test_a_requeue_counts_by_what_slurm_did_not_by_its_exit_code(run, said):
    assert slurm.requeue("12", 2, run) == said
