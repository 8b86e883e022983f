"""Two live jobs never hold one run directory."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from hpcjobs.run.errors import RunHeldError
from hpcjobs.run.holder import Holder, current_holder, local_alive, release, take, this_process
from hpcjobs.run.layout import RunDir


def known(answer):
    return lambda holder: answer


def test_a_free_run_is_taken_and_given_back(tmp_path):
    run, me = RunDir(tmp_path), this_process(None)
    take(run, me, local_alive)
    assert current_holder(run) == me
    release(run, me)
    assert current_holder(run) is None


@pytest.mark.parametrize(
    ("answer", "message"), [(True, "is held by Slurm job 7"), (None, "is unknown")]
)
def test_a_run_of_another_job_is_refused_while_that_lives_or_may_live(tmp_path, answer, message):
    run = RunDir(tmp_path)
    take(run, Holder("n1", 1, "1", "7"), known(False))
    with pytest.raises(RunHeldError, match=message):
        take(run, Holder("n2", 2, "2", "8"), known(answer))


def test_a_run_of_a_dead_job_is_taken_over(tmp_path):
    run, me = RunDir(tmp_path), Holder("n2", 2, "2", "8")
    take(run, Holder("n1", 1, "1", "7"), known(False))
    take(run, me, known(False))
    assert current_holder(run) == me


def test_a_requeued_job_finds_itself(tmp_path):
    run = RunDir(tmp_path)
    take(run, Holder("n1", 1, "1", "7"), known(None))
    take(run, Holder("n2", 9, "9", "7", restarts=1), known(None))
    assert current_holder(run).host == "n2"


def test_an_earlier_run_of_the_same_job_does_not_get_it_back(tmp_path):
    """Its node was lost to Slurm and lives: the job runs elsewhere since."""
    run, later = RunDir(tmp_path), Holder("n2", 9, "9", "7", restarts=1)
    take(run, later, known(None))
    with pytest.raises(RunHeldError, match="started again since"):
        take(run, Holder("n1", 1, "1", "7"), known(False))
    assert current_holder(run) == later


def test_two_brokers_in_one_allocation_are_told_apart_by_their_processes(tmp_path):
    run = RunDir(tmp_path)
    first = this_process("7")
    take(run, first, known(None))
    with pytest.raises(RunHeldError, match="is held by Slurm job 7"):
        take(run, replace(first, pid=first.pid + 1), known(False))
    gone = replace(first, started="0")
    release(run, first)
    take(run, gone, known(None))
    take(run, first, known(True))
    assert current_holder(run) == first


def test_giving_back_leaves_a_successor_alone(tmp_path):
    run, old, new = RunDir(tmp_path), Holder("n1", 1, "1", "7"), Holder("n2", 2, "2", "8")
    take(run, old, known(False))
    take(run, new, known(False))
    release(run, old)
    assert current_holder(run) == new


def test_a_process_is_alive_until_it_is_gone_and_a_reused_pid_is_not_it():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    holder = Holder(os.uname().nodename, child.pid, process_ticks(child.pid))
    assert local_alive(holder) is True
    assert local_alive(Holder(holder.host, holder.pid, "0")) is False
    child.communicate(b"\n")
    assert local_alive(holder) is False


def test_a_process_of_another_machine_is_unknown():
    assert local_alive(Holder("elsewhere", 1, "1")) is None


@pytest.mark.parametrize(
    ("changes", "alive"),
    [
        ({}, True),
        ({"boot": "an earlier one"}, False),  # the pid and its start time may be the same again
        ({"boot": ""}, True),
        ({"pid_namespace": "pid:[1]"}, None),  # a container with this machine's name
        ({"pid_namespace": "", "started": "0"}, False),
        ({"host": "elsewhere", "boot": "an earlier one"}, None),
    ],
)
def test_a_holder_is_gone_only_on_proof(changes, alive):
    assert local_alive(replace(this_process(None), **changes)) is alive


def process_ticks(pid):
    from hpcjobs.run.holder import process_start

    return process_start(pid)


RACER = """
import sys
from pathlib import Path
from hpcjobs.run.errors import RunHeldError
from hpcjobs.run.holder import take, this_process
from hpcjobs.run.layout import RunDir
run = RunDir(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
try:
    take(run, this_process(None), lambda holder: holder.host != "gone")
    print("won", flush=True)
except RunHeldError:
    print("lost", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("round_", range(4))
def test_of_many_that_take_over_from_a_dead_holder_exactly_one_wins(tmp_path, round_):
    run = RunDir(tmp_path)
    take(run, Holder("gone", 1, "1", "7"), known(False))
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(6)
    ]  # fmt: skip
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    said = sorted(racer.stdout.readline() for racer in racers)
    for racer in racers:
        racer.communicate("end\n")
    assert said == ["lost\n"] * 5 + ["won\n"]
    assert current_holder(run).host != "gone"
    assert [path.name for path in tmp_path.iterdir()] == ["holder.json"]
