"""The step between an announcement and the end of its lead time, with a real agent."""

import sys
import time
from types import SimpleNamespace

import pytest
from node.test_broker import prepare, run  # noqa: F401 - the fixture

from hpcjobs.node import step as step_module
from hpcjobs.node.job import Allocation
from hpcjobs.node.slurm import JobView
from hpcjobs.node.step import Step, agents_were_told, is_announced
from hpcjobs.run.fence import open_fence
from hpcjobs.run.files import read_lines
from hpcjobs.run.node_end import NodeEnd, read_node_end

LEAD_S = 8.0
IN_A_JOB = Allocation(job_id="7", is_batch=True)
TOLD = SimpleNamespace(stop=True, received=["SIGUSR2"])
LINGERS = "import subprocess, sys, time; subprocess.run(sys.argv[1:]); time.sleep(60)"
UNTOLD = SimpleNamespace(stop=False, received=[])


def go(run, notices, view, before=()):  # noqa: F811
    number = run.new_attempt()
    open_fence(run, number)
    agent = [sys.executable, "-Iu", str(run.node_archive), "agent", str(run.path), str(number)]
    command = [*before, *agent, "127.0.0.1", "1"]
    began = time.monotonic()
    end = Step(run, number, 1, notices, view, IN_A_JOB).run(command, {})
    return end, time.monotonic() - began


def view_with_lead(lead_s, state="RUNNING"):
    ends_at = time.time() + lead_s
    return lambda: JobView(state, preempted=True, restarts=0, ends_at=ends_at)


def kinds(run):  # noqa: F811
    return [event["kind"] for event in read_lines(run.events)]


def test_processes_that_do_not_end_are_killed_just_before_the_lead_time_is_over(run):  # noqa: F811
    prepare(run, {"*": "deaf"})
    end, seconds = go(run, TOLD, view_with_lead(LEAD_S))
    assert end.forced
    assert 0.5 * LEAD_S < seconds < LEAD_S + 2
    seen = read_node_end(run.attempt(1).exit_codes(0))
    assert seen.forced
    assert seen.exits == {0: None, 1: None}
    assert kinds(run) == ["announced", "forced_exit"]


def test_processes_that_save_in_time_are_left_alone(run):  # noqa: F811
    prepare(run, {"*": "slow_to_stop"})
    end, seconds = go(run, TOLD, view_with_lead(LEAD_S))
    assert not end.forced
    assert seconds < LEAD_S
    assert kinds(run) == ["announced"]


@pytest.mark.parametrize("view", [lambda: None, view_with_lead(0.0, "COMPLETING")])
def test_where_the_lead_time_is_not_known_slurms_own_kill_is_waited_for(run, view):  # noqa: F811
    prepare(run, {"*": "slow_to_stop"})
    end, _ = go(run, TOLD, view)
    assert not end.forced
    assert [e["lead_s"] for e in read_lines(run.events)] == [None]


def test_an_announcement_that_nobody_heard_is_asked_for(run, monkeypatch):  # noqa: F811
    """Slurm tells the steps alone, and between two steps there is none."""
    monkeypatch.setattr(step_module, "ASK_SLURM_AFTER_S", 0.5)
    prepare(run, {"*": "slow_to_stop"})
    end, _ = go(run, UNTOLD, view_with_lead(60))
    assert end.slurm_told
    assert next(iter(read_lines(run.events)))["by"] == "slurm"


def test_a_step_that_does_not_end_after_a_failure_is_given_up(run, monkeypatch):  # noqa: F811
    """As when a lost node does not answer: srun would wait for it."""
    monkeypatch.setattr(step_module, "TEARDOWN_S", 1.0)
    monkeypatch.setattr(step_module, "end_steps", lambda job_id: None)
    prepare(run, {"0": "deaf", "1": "crash"})
    _, seconds = go(run, UNTOLD, lambda: None, before=[sys.executable, "-c", LINGERS])
    assert seconds < 30
    assert kinds(run) == ["step_given_up"]


WELL = NodeEnd("n", {0: 0}, complete=True)
FAILED = NodeEnd("n", {0: 1}, complete=True, failed_at=5.0)
FAILING = NodeEnd("n", {0: 1}, failed_at=5.0)


@pytest.mark.parametrize(
    ("told", "ends", "has_ended", "yes"),
    [
        ([False, False], [WELL, WELL], True, False),
        ([True, True], [WELL, WELL], True, True),
        ([True, False], [WELL, WELL], True, True),  # a stray signal to one of them
        ([True, False], [None, None], False, True),
        ([True, True], [FAILED, WELL], True, True),
        ([True, False], [WELL, FAILED], True, False),  # srun ended the first after the second
        ([True, False], [None, FAILING], False, False),
        ([True, False], [WELL, None], True, False),  # the second agent was killed
        ([True, True], [None, None], True, True),
    ],
)
def test_sruns_echo_of_a_failure_is_no_announcement(told, ends, has_ended, yes):
    assert agents_were_told(told, ends, has_ended) is yes


@pytest.mark.parametrize(
    ("job", "yes"),
    [
        (None, False),
        (JobView("RUNNING", False, 0), False),
        (JobView("RUNNING", True, 0), True),
        (JobView("COMPLETING", False, 0), True),
    ],
)
def test_an_announcement_is_what_slurm_says(job, yes):
    assert is_announced(job) is yes
