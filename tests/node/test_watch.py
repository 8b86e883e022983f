"""The watch over real processes that stand still: a small program beats, and one rank fails.

All faults run side by side in the module's fixture, so that their limits elapse only once.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from hpcjobs.node.proc import marked, view_process
from hpcjobs.node.watch import Watch, beats_environment, end_marked
from hpcjobs.run.beat import BEATS_VARIABLE
from hpcjobs.run.hang import conclude_hang
from hpcjobs.run.hang_report import read_reports
from hpcjobs.run.launch import Launch
from hpcjobs.run.layout import RunDir
from hpcjobs.run.verdict import Verdict

ROOT = Path(__file__).parents[2]
SETTINGS = {"hang_s": 2.0, "hang_factor": 20.0, "start_s": 30.0, "alarms": False}
FAULTS = ["sleep", "read", "stop", "gil", "regex", "loader_read", "loader_stop", "deaf", "deadlock"]

# Ranks meet here as in a collective; the path is what a stack shows of torch's own.
MEETING = """
import time
def meet(place, rank, ranks, lap):
    (place / f"{rank}-{lap}").touch()
    while not all((place / f"{other}-{lap}").exists() for other in range(ranks)):
        time.sleep(0.002)
"""

PROGRAM = """
import ctypes, multiprocessing, os, pathlib, re, signal, subprocess, sys, time
from hpcjobs.train.heartbeat import open_heartbeat, watch_loader
here, fault = pathlib.Path(sys.argv[1]), sys.argv[2]
sys.path.insert(0, str(here / "torch" / "distributed"))
from meeting import meet
rank, fork = int(os.environ["RANK"]), multiprocessing.get_context("fork")
beats = open_heartbeat(os.environ, rank)

def forgotten_file():
    open(here / "fifo").read()

def loader(number, orders):
    watch_loader(number)
    if number == 1 and orders.recv() == "read":
        forgotten_file()
    while True:
        orders.recv()

def start_loaders():
    pairs = [fork.Pipe() for _ in range(2)]
    made = [fork.Process(target=loader, args=(n, pairs[n][1])) for n in range(2)]
    for process in made:
        process.start()
    return [pair[0] for pair in pairs], made

def endless_match():
    re.match(r"(a+)+$", "a" * 60 + "b")

def hold_the_lock():
    ctypes.PyDLL(None).sleep(600)

def fail():
    if fault == "sleep":
        while True:
            time.sleep(60)
    elif fault == "read":
        forgotten_file()
    elif fault == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif fault == "gil":
        hold_the_lock()
    elif fault == "regex":
        endless_match()
    elif fault.startswith("loader"):
        if fault == "loader_stop":
            os.kill(processes[1].pid, signal.SIGSTOP)
        pipes[1].send(fault.partition("_")[2])
        pipes[1].recv()
    elif fault == "deaf":
        for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGUSR1}:
            signal.signal(number, signal.SIG_IGN)
        subprocess.Popen(["sleep", "600"], start_new_session=True)
        subprocess.run(["sh", "-c", "setsid sleep 600 & exit 0"])
        while True:
            time.sleep(60)

if fault.startswith("loader") and rank == 1:
    pipes, processes = start_loaders()
for lap in range(10_000):
    beats.lap(lap, 10_000)
    beats.enter("data")
    if rank == 1 and lap == 6 and fault != "deadlock":
        fail()
    beats.enter("collective")
    meet(here, rank, 2 if lap < 6 or fault != "deadlock" else 3, lap)
"""


@dataclass
class Outcome:
    """What came of one fault."""

    run: RunDir
    scratch: Path
    processes: dict[int, subprocess.Popen]
    watch: Watch
    found: bool = False
    verdict: Verdict | None = None
    survivors: tuple[int, ...] = ()

    @property
    def attempt(self):
        return self.run.attempt(1)

    def stacks(self, rank):
        return self.attempt.stacks(rank).read_text()

    def view(self, rank):
        views = {v.rank: v for report in read_reports(self.attempt) for v in report.views}
        return views[rank]


def begin(
    place, fault, settings=SETTINGS, ranks=2, program=PROGRAM, python=lambda *_: [sys.executable]
):
    (place / "torch" / "distributed").mkdir(parents=True)
    (place / "torch" / "distributed" / "meeting.py").write_text(MEETING)
    (place / "program.py").write_text(program)
    os.mkfifo(place / "fifo")
    run, scratch = RunDir(place / "run"), place / "scratch"
    run.attempt(1).path.mkdir(parents=True)
    environment = {**os.environ, **beats_environment(scratch), "PYTHONPATH": str(ROOT)}
    processes = {
        rank: subprocess.Popen(
            [*python(rank, environment), str(place / "program.py"), str(place), fault],
            env={**environment, "RANK": str(rank)}, start_new_session=True,
        )
        for rank in range(ranks)
    }  # fmt: skip
    launch = Launch(sys.executable, 1, ranks, 4, True, {}, None, watch=dict(settings))
    pids = {rank: process.pid for rank, process in processes.items()}
    return Outcome(run, scratch, processes, Watch(run, 1, 0, launch, scratch, pids))


def end(outcome):
    """As the agent does: the process groups, and then whatever has left them."""
    for process in outcome.processes.values():
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    outcome.survivors = tuple(end_marked(outcome.scratch))
    for process in outcome.processes.values():
        process.wait(10)
    outcome.watch.close()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    begun = {fault: begin(tmp_path_factory.mktemp(fault), fault) for fault in FAULTS}
    try:
        deadline = time.monotonic() + 120
        while waiting := [outcome for outcome in begun.values() if not outcome.found]:
            assert time.monotonic() < deadline, [f for f, o in begun.items() if not o.found]
            for outcome in waiting:
                outcome.found = outcome.watch.look()
            time.sleep(0.02)
        for outcome in begun.values():
            outcome.verdict = conclude_hang(outcome.attempt, 2)
    finally:
        for outcome in begun.values():
            end(outcome)
    return begun


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("sleep", "fail at"),
        ("read", "forgotten_file at"),
        ("stop", "stopped by a signal or a debugger"),
        ("gil", "hold_the_lock at"),
        ("regex", "in match at re/__init__.py"),
        ("loader_read", "loader in forgotten_file at"),
        ("loader_stop", "in state T"),
        ("deaf", "fail at"),
    ],
)
def test_the_rank_that_the_others_wait_for_is_named_with_what_it_does(outcomes, fault, words):
    verdict = outcomes[fault].verdict
    assert (verdict.status, verdict.cause, verdict.rank) == ("failed", "hang", 1)
    assert verdict.node == os.uname().nodename
    assert words in verdict.reason
    assert "in data after step 6" in verdict.reason
    assert "rank 0 waited" in verdict.reason
    assert str(outcomes[fault].attempt.stacks(1)) in verdict.reason


def test_in_a_deadlock_of_all_ranks_nobody_is_named(outcomes):
    verdict = outcomes["deadlock"].verdict
    assert (verdict.rank, verdict.node, verdict.cause) == (None, None, "hang")
    assert "culprit unknown: nobody is behind: a deadlock inside a collective" in verdict.reason
    assert "meet at distributed/meeting.py" in verdict.reason


@pytest.mark.parametrize("fault", FAULTS)
def test_every_rank_leaves_its_stack_unless_it_is_stopped(outcomes, fault):
    assert "in meet" in outcomes[fault].stacks(0)
    if fault == "stop":
        assert "no process answered" in outcomes[fault].stacks(1)
        assert f"{outcomes[fault].processes[1].pid} T" in outcomes[fault].stacks(1)
    else:
        assert "most recent call first" in outcomes[fault].stacks(1)


def test_loader_processes_show_their_stacks_and_live_through_it(outcomes):
    outcome = outcomes["loader_read"]
    assert outcome.stacks(1).count("--- stacks-1") == 3
    assert "in loader" in outcome.stacks(1)
    states = outcome.stacks(1).splitlines()[0]
    assert states.count(" S") == 3, states


@pytest.mark.parametrize("fault", FAULTS)
def test_after_the_kill_nothing_is_left(outcomes, fault):
    assert outcomes[fault].survivors == ()
    assert marked(f"{BEATS_VARIABLE}={outcomes[fault].scratch / 'beats'}") == []
    for process in outcomes[fault].processes.values():
        assert view_process(process.pid) is None


def test_the_same_hang_has_the_same_root_whatever_the_numbers(outcomes):
    roots = {fault: outcome.verdict.root for fault, outcome in outcomes.items()}
    assert roots["sleep"].startswith("hang: data in fail (")
    assert roots["stop"] == "hang: data, stopped"
    assert roots["deadlock"] == "hang: culprit unknown in collective"
    assert roots["read"].startswith("hang: data in forgotten_file (")
    assert roots["loader_stop"] == "hang: data, loader in state T"
    place = "/".join(roots["loader_read"].split("/")[-2:])
    assert roots["loader_read"].startswith("hang: data, loader in forgotten_file at ")
    assert place.endswith("/program.py")


SLOW = """
import os, sys, time
from hpcjobs.train.heartbeat import open_heartbeat
beats = open_heartbeat(os.environ, int(os.environ["RANK"]))
beats.enter("load")
time.sleep(1.8)
for lap in range(4):
    beats.lap(lap, 10)
    beats.enter("forward")
    time.sleep(1.5 if lap == 0 else 0.2)
beats.lap(4, 10)
beats.enter("save")
time.sleep(1.8)
beats.enter("heldout")
for _ in range(3):
    beats.alive()
    time.sleep(0.7)
beats.enter("done")
"""


def test_slow_phases_within_their_own_limits_are_no_hang(tmp_path):
    settings = {**SETTINGS, "hang_s": 0.5, "start_s": 60.0, "heldout_s": 30.0}
    outcome = begin(tmp_path, "none", settings, program=SLOW)
    try:
        while any(process.poll() is None for process in outcome.processes.values()):
            assert not outcome.watch.look()
            time.sleep(0.05)
        assert [process.wait() for process in outcome.processes.values()] == [0, 0]
        assert read_reports(outcome.attempt) == []
    finally:
        end(outcome)


DYING = """
import os, sys, time
from hpcjobs.train.heartbeat import open_heartbeat
if os.environ["RANK"] == "1":
    while True:
        time.sleep(60)
beats = open_heartbeat(os.environ, 0)
beats.enter("load")
time.sleep(600)
"""


def test_a_process_that_never_begins_is_found_and_not_killed_by_the_request(tmp_path):
    """It has no handler for the request yet, which would be its death and a wrong verdict."""
    outcome = begin(tmp_path, "none", {**SETTINGS, "start_s": 3.0}, program=DYING)
    try:
        deadline = time.monotonic() + 60
        while not outcome.watch.look():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert outcome.processes[1].poll() is None
        verdict = conclude_hang(outcome.attempt, 2)
        assert verdict.rank == 1
        assert "did not begin within" in verdict.reason
    finally:
        end(outcome)


def test_a_hang_is_one_though_it_cannot_be_written_down(tmp_path, capfd):
    """As on a full disk: the processes must be ended all the same."""
    settings = {**SETTINGS, "start_s": 2.0}
    outcome = begin(tmp_path, "none", settings, ranks=1, program="import time; time.sleep(600)")
    outcome.attempt.path.rmdir()
    try:
        deadline = time.monotonic() + 25
        while not outcome.watch.look():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        end(outcome)
    assert "cannot write down the hang" in capfd.readouterr().err


@pytest.mark.slow
def test_in_a_container_the_ranks_answer_are_named_and_leave_nothing(
    tmp_path, image, container_program
):
    """The process that was started is the container's own, which has no beat and no stack.

    Slow: the first test that needs the image builds it.
    """

    def python(rank, environment):
        told = {"RANK": rank, "PYTHONPATH": ROOT, BEATS_VARIABLE: environment[BEATS_VARIABLE]}
        words = [word for name, value in told.items() for word in ("--env", f"{name}={value}")]
        binds = ["--bind", str(tmp_path), "--bind", f"{ROOT}:{ROOT}:ro"]
        command = [str(container_program.path), "--quiet", "exec", "--cleanenv", *binds, *words]
        return [*command, str(image), "python3"]

    settings = {**SETTINGS, "start_s": 60.0}
    outcome = begin(tmp_path, "sleep", settings, python=python)
    try:
        deadline = time.monotonic() + 90
        while not outcome.watch.look():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        verdict = conclude_hang(outcome.attempt, 2)
    finally:
        end(outcome)
    assert verdict.rank == 1
    assert "in data after step 6 (in fail at" in verdict.reason
    assert outcome.survivors == ()
    assert marked(f"{BEATS_VARIABLE}={outcome.scratch / 'beats'}") == []
