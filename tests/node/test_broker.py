"""Broker and agent with real processes: a small program stands in for the training."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpcjobs.login.node_archive import write_node_archive
from hpcjobs.run.files import make_private_dir, read_json, read_lines, write_json
from hpcjobs.run.holder import current_holder, process_start
from hpcjobs.run.launch import Launch, write_launch
from hpcjobs.run.layout import RunDir

# The agent starts `python CODE --run R --attempt N`; this program stands in for the training.
PROGRAM = """
import json, os, pathlib, signal, sys, time
run, attempt, rank = sys.argv[2], sys.argv[4], os.environ["RANK"]
here = pathlib.Path(run, "attempts", attempt)
stopped = []
for number in (signal.SIGTERM, signal.SIGUSR2):
    signal.signal(number, lambda n, f: stopped.append(n))
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM, signal.SIGUSR2])
def say(status, reason="as told"):
    text = json.dumps({"status": status, "reason": reason, "step": 1, "rank": int(rank)})
    (here / f"verdict-rank-{rank}.json").write_text(text)
(here / f"env-{rank}.json").write_text(json.dumps({**os.environ, "PID": str(os.getpid())}))
plan = json.loads(pathlib.Path(run, "plan.json").read_text())
what = plan.get(rank, plan.get("*"))
if isinstance(what, list): what = what[min(int(attempt), len(what)) - 1]
if what.startswith("commit "):
    what, step = what.split()[2:] + ["done"], int(what.split()[1])
    pathlib.Path(run, "checkpoints", f"step-{step:08d}").mkdir(exist_ok=True)
    what = what[0]
(here / f"ready-{rank}").touch()
if what == "done": say("done")
elif what == "crash": sys.exit(7)
elif what == "die": os.kill(os.getpid(), signal.SIGKILL)
elif what == "echo":
    print("RuntimeError: [gloo] Connection reset by peer", file=sys.stderr); sys.exit(1)
elif what == "no_memory":
    text = {"status": "never", "reason": "CUDA out of memory", "cause": "card_memory"}
    (here / f"verdict-rank-{rank}.json").write_text(json.dumps(text)); sys.exit(3)
elif what == "never": say("never", "cat.png is missing"); sys.exit(3)
elif what == "until_stopped":
    while not stopped: time.sleep(0.02)
    say("checkpointed")
elif what == "slow_to_stop":
    while not stopped: time.sleep(0.02)
    time.sleep(1)
    say("checkpointed")
elif what == "deaf":
    while True: time.sleep(1)
"""


@pytest.fixture
def run(weird_tmp_path):
    (weird_tmp_path / "program.py").write_text(PROGRAM)
    run = RunDir(weird_tmp_path / "run")
    make_private_dir(run.path)
    write_node_archive(run.node_archive)
    return run


def prepare(run, plan, processes=2, python=sys.executable, env_file=None, nodes=1, **fields):
    (run.path / "plan.json").write_text(json.dumps(plan))
    launch = Launch(
        python, nodes, processes, 4, True, {"MARK": "here"}, env_file,
        code=str(run.path.parent / "program.py"), **fields,
    )  # fmt: skip
    write_launch(run.launch, launch)


def start(run, python=sys.executable):
    return subprocess.Popen(
        [python, "-Iu", str(run.node_archive), "local", str(run.path)],
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path, timeout_s=20):
    deadline = time.monotonic() + timeout_s
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.02)


def verdict(run, attempt=1):
    return read_json(run.attempt(attempt).verdict)


def event(run, kind, attempt):
    found = [e for e in read_lines(run.events) if e["kind"] == kind and e["attempt"] == attempt]
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize(
    ("plan", "code", "status", "cause", "reason"),
    [
        ({"*": "done"}, 0, "done", "done", "as told"),
        ({"0": "done", "1": "crash"}, 3, "never", "crash", "rank 1 on HOST ended with exit code 7"),
        ({"0": "done", "1": "die"}, 3, "never", "crash", "rank 1 on HOST was killed by signal 9"),
        ({"0": "echo", "1": "die"}, 3, "never", "crash", "rank 1 on HOST was killed by signal 9"),
        ({"0": "done", "1": "never"}, 3, "never", "never", "cat.png is missing"),
        ({"0": "echo", "1": "no_memory"}, 3, "never", "card_memory", "CUDA out of memory"),
    ],
)
def test_the_attempt_ends_with_its_verdict(run, plan, code, status, cause, reason):
    prepare(run, plan, failures_max=1)
    assert start(run).wait(30) == code
    said = verdict(run)
    assert (said["status"], said["cause"]) == (status, cause)
    assert reason.replace("HOST", os.uname().nodename) in said["reason"]
    assert run.attempt_numbers() == [1]
    assert current_holder(run) is None


def test_a_crashed_process_is_started_again_in_place(run):
    prepare(run, {"0": ["deaf", "done"], "1": ["die", "done"]})
    assert start(run).wait(30) == 0
    assert run.attempt_numbers() == [1, 2]
    assert verdict(run, 1)["cause"] == "crash"
    assert verdict(run, 2)["status"] == "done"
    ended, started = [
        event(run, kind, n) for kind, n in (("attempt_ended", 1), ("attempt_started", 2))
    ]
    assert ended["failed_at"] <= ended["ended_at"] <= started["time"]
    assert ended["decision"]["kind"] == "restart"


def test_a_poison_job_stops_after_its_budget_and_says_why(run):
    prepare(run, {"*": "crash"}, failures_max=3)
    assert start(run).wait(60) == 3
    assert run.attempt_numbers() == [1, 2, 3]
    assert verdict(run, 2)["status"] == "failed"
    last = verdict(run, 3)
    assert last["status"] == "never"
    assert last["reason"].startswith("the same failure 3 times without a new checkpoint: rank 0")
    assert last["root"] == "ended with exit code 7"


def test_a_new_checkpoint_fills_the_budget_again(run):
    prepare(run, {"*": ["crash", "commit 5 crash", "commit 9 crash", "done"]}, failures_max=2)
    assert start(run).wait(60) == 0
    assert [verdict(run, n)["step"] for n in range(1, 5)] == [0, 5, 9, 9]


def test_a_person_who_starts_a_stopped_run_again_has_a_full_budget(run):
    prepare(run, {"*": "crash"}, failures_max=1)
    assert start(run).wait(30) == 3
    prepare(run, {"*": ["crash", "crash", "done"]}, failures_max=2)
    assert start(run).wait(30) == 0
    assert run.attempt_numbers() == [1, 2, 3]


def test_budgets_hold_across_brokers(run):
    """An attempt whose broker was killed counts, and so do those before it."""
    prepare(run, {"*": ["crash", "until_stopped"]}, failures_max=3)
    broker = start(run)
    wait_for(run.attempt(2).path / "ready-1")
    broker.kill()
    broker.wait()
    prepare(run, {"*": "crash"}, failures_max=3)
    assert start(run).wait(30) == 3
    assert run.attempt_numbers() == [1, 2, 3]


def test_a_signal_between_two_attempts_starts_no_further_one(run):
    prepare(run, {"*": "crash"}, failures_max=9)
    broker = start(run)
    wait_for(run.attempt(2).verdict)
    broker.terminate()
    assert broker.wait(30) == 75
    assert run.attempt_numbers() == [1, 2]
    asked = [e for e in read_lines(run.events) if e["kind"] == "asked_to_end"]
    assert [e["cause"] for e in asked] == ["stopped"]


def test_a_signal_to_the_agent_alone_saves_and_goes_on_in_place(run):
    """The allocation is still there: nobody but a stray signal wanted the end."""
    prepare(run, {"*": ["until_stopped", "done"]})
    broker = start(run)
    for rank in range(2):
        wait_for(run.attempt(1).path / f"ready-{rank}")
    os.kill(read_json(run.attempt(1).agent(0))["pid"], signal.SIGTERM)
    assert broker.wait(30) == 0
    assert (verdict(run, 1)["status"], verdict(run, 1)["cause"]) == ("checkpointed", "interrupted")
    assert event(run, "announced", 1)["by"] == "agents"
    assert verdict(run, 2)["status"] == "done"


def test_processes_of_a_killed_agent_do_not_run_beside_the_next_attempt(run):
    prepare(run, {"*": ["deaf", "done"]})
    broker = start(run)
    for rank in range(2):
        wait_for(run.attempt(1).path / f"ready-{rank}")
    os.kill(read_json(run.attempt(1).agent(0))["pid"], signal.SIGKILL)
    assert broker.wait(60) == 0
    for rank in range(2):
        left = read_json(run.attempt(1).path / f"env-{rank}.json")["PID"]
        assert process_start(int(left)) is None


def test_a_broker_that_lost_its_run_starts_nothing_more(run):
    """As on a node that Slurm has given up: the job runs elsewhere, and this broker still lives."""
    prepare(run, {"*": ["until_stopped", "done"]})
    broker = start(run)
    wait_for(run.attempt(1).path / "ready-1")
    write_json(run.holder, {**read_json(run.holder), "host": "elsewhere"})
    os.kill(read_json(run.attempt(1).agent(0))["pid"], signal.SIGTERM)
    _, said = broker.communicate(timeout=30)
    assert broker.returncode == 5
    assert "was taken over by process" in said
    assert run.attempt_numbers() == [1]
    assert not run.attempt(1).verdict.exists()
    assert current_holder(run).host == "elsewhere"


def test_every_process_gets_its_static_rank_and_the_five_rendezvous_variables(run):
    prepare(run, {"*": "done"}, processes=3)
    assert start(run).wait(30) == 0
    environments = [read_json(run.attempt(1).path / f"env-{rank}.json") for rank in range(3)]
    assert [e["RANK"] for e in environments] == [e["LOCAL_RANK"] for e in environments]
    assert {e["WORLD_SIZE"] for e in environments} == {"3"}
    assert len({(e["MASTER_ADDR"], e["MASTER_PORT"]) for e in environments}) == 1
    assert {e["MARK"] for e in environments} == {"here"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_stop_signal_reaches_every_process_and_the_run_is_resumable(run, number):
    prepare(run, {"*": "until_stopped"})
    broker = start(run)
    for rank in range(2):
        wait_for(run.attempt(1).path / f"ready-{rank}")
    broker.send_signal(number)
    broker.send_signal(number)
    assert broker.wait(30) == 75
    assert verdict(run)["status"] == "checkpointed"


def test_signals_to_everybody_again_and_again_stop_the_run_once(run):
    """As Slurm does with linuxproc: every process of the step, twice, and the batch step too."""
    prepare(run, {"*": "slow_to_stop"})
    broker = start(run)
    for rank in range(2):
        wait_for(run.attempt(1).path / f"ready-{rank}")
    agent = read_json(run.attempt(1).agent(0))["pid"]
    ranks = [int(read_json(run.attempt(1).path / f"env-{rank}.json")["PID"]) for rank in range(2)]
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGTERM):
        for pid in (*ranks, agent, broker.pid):
            os.kill(pid, number)
    assert broker.wait(30) == 75
    assert (verdict(run)["status"], verdict(run)["cause"]) == ("checkpointed", "stopped")
    assert run.attempt_numbers() == [1]


def test_a_signal_before_the_processes_are_ready_is_not_lost(run):
    prepare(run, {"*": "until_stopped"})
    broker = start(run)
    wait_for(run.attempt(1).path)
    broker.send_signal(signal.SIGTERM)
    assert broker.wait(30) == 75
    assert verdict(run)["status"] == "checkpointed"


def test_when_the_broker_is_killed_its_processes_stop_and_save(run):
    prepare(run, {"*": "until_stopped"})
    broker = start(run)
    for rank in range(2):
        wait_for(run.attempt(1).path / f"ready-{rank}")
    broker.kill()
    broker.wait()
    for rank in range(2):
        wait_for(run.attempt(1).rank_verdict(rank))


def test_a_new_attempt_waits_for_the_processes_of_a_killed_broker(run):
    """They stop and save at their next step; until then two attempts would write side by side."""
    prepare(run, {"*": "slow_to_stop"})
    first = start(run)
    wait_for(run.attempt(1).path / "ready-1")
    first.kill()
    first.wait()
    prepare(run, {"*": "done"})
    assert start(run).wait(30) == 0
    for rank in range(2):
        stopped = run.attempt(1).rank_verdict(rank).stat().st_mtime
        began = (run.attempt(2).path / f"ready-{rank}").stat().st_mtime
        assert stopped < began


@pytest.mark.parametrize("fault", ["python", "env_file"])
def test_what_an_agent_cannot_start_is_said_in_the_verdict(run, fault):
    readable = run.path.parent / "env"
    readable.write_text("A=b\n")
    readable.chmod(0o644)
    words = {"python": "/no/such/python"} if fault == "python" else {"env_file": str(readable)}
    prepare(run, {"*": "done"}, **words)
    assert start(run).wait(30) == 3
    assert verdict(run)["status"] == "never"
    assert ("/no/such/python" if fault == "python" else "chmod 600") in verdict(run)["reason"]


def test_a_second_broker_on_a_live_run_is_refused(run):
    prepare(run, {"*": "until_stopped"})
    first = start(run)
    wait_for(run.attempt(1).path / "ready-1")
    second = start(run)
    _, said = second.communicate(timeout=30)
    assert second.returncode == 5
    assert "is held by process" in said
    assert "Traceback" not in said
    first.terminate()
    assert first.wait(30) == 75
    assert run.attempt_numbers() == [1]


def test_a_run_whose_broker_was_killed_can_go_on(run):
    prepare(run, {"*": "until_stopped"})
    first = start(run)
    wait_for(run.attempt(1).path / "ready-1")
    first.kill()
    first.wait()
    prepare(run, {"*": "done"})
    assert start(run).wait(30) == 0
    assert run.attempt_numbers() == [1, 2]


def test_logs_and_events_stay_in_the_run_directory_and_are_private(run):
    prepare(run, {"*": "done"})
    assert start(run).wait(30) == 0
    kinds = [line["kind"] for line in read_lines(run.events)]
    assert kinds == ["attempt_started", "attempt_ended"]
    assert all((p.stat().st_mode & 0o077) == 0 for p in run.attempt(1).path.iterdir())


def test_secrets_of_the_env_file_reach_the_processes_and_no_file(run):
    secret = run.path.parent / "env"
    secret.write_text("HF_TOKEN=hf_plantedplantedplanted\n")
    secret.chmod(0o600)
    prepare(run, {"*": "crash"}, env_file=str(secret), failures_max=1)
    start(run).wait(30)
    assert read_json(run.attempt(1).path / "env-0.json")["HF_TOKEN"] == "hf_plantedplantedplanted"
    (run.attempt(1).path / "env-0.json").unlink()
    (run.attempt(1).path / "env-1.json").unlink()
    for path in run.path.rglob("*"):
        if path.is_file():
            assert b"hf_planted" not in path.read_bytes(), path


def test_several_nodes_without_slurm_are_refused_in_one_line(run):
    prepare(run, {"*": "done"}, nodes=2)
    broker = start(run)
    _, said = broker.communicate(timeout=30)
    assert broker.returncode == 3
    assert said.startswith("error: several nodes need Slurm")


def old_pythons():
    found = [shutil.which(name) for name in ("python3.9", "python3.10")]
    found += [str(p) for p in Path.home().glob(".pyenv/versions/3.9*/bin/python")]
    return [path for path in found if path]


def test_broker_and_agent_run_on_the_oldest_python_that_is_promised(run):
    pythons = [
        p for p in old_pythons() if subprocess.run([p, "-c", ""], check=False).returncode == 0
    ]
    if not pythons:
        pytest.skip("no Python 3.9 or 3.10 on this machine")
    prepare(run, {"*": "done"})
    assert start(run, pythons[0]).wait(30) == 0
    assert verdict(run)["status"] == "done"
