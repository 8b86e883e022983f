"""Broker and agent with real processes: a small program stands in for the training."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpcjobs.login.node_archive import write_node_archive
from hpcjobs.run.files import make_private_dir, read_json, read_lines
from hpcjobs.run.holder import current_holder
from hpcjobs.run.launch import Launch, write_launch
from hpcjobs.run.layout import RunDir

# The agent starts `python -m hpcjobs.train --run R --attempt N`; this package answers to it.
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
(here / f"env-{rank}.json").write_text(json.dumps(dict(os.environ)))
plan = json.loads(pathlib.Path(run, "plan.json").read_text())
what = plan.get(rank, plan.get("*"))
(here / f"ready-{rank}").touch()
if what == "done": say("done")
elif what == "crash": sys.exit(7)
elif what == "die": os.kill(os.getpid(), signal.SIGKILL)
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
    package = weird_tmp_path / "fake" / "hpcjobs" / "train"
    package.mkdir(parents=True)
    for place in (package.parent, package):
        (place / "__init__.py").touch()
    (package / "__main__.py").write_text(PROGRAM)
    run = RunDir(weird_tmp_path / "run")
    make_private_dir(run.path)
    write_node_archive(run.node_archive)
    return run


def prepare(run, plan, processes=2, python=sys.executable, env_file=None, nodes=1):
    (run.path / "plan.json").write_text(json.dumps(plan))
    fake = str(run.path.parent / "fake")
    launch = Launch(
        python, nodes, processes, 4, True, {"PYTHONPATH": fake, "MARK": "here"}, env_file
    )
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


@pytest.mark.parametrize(
    ("plan", "code", "status", "reason"),
    [
        ({"*": "done"}, 0, "done", "as told"),
        ({"0": "done", "1": "crash"}, 1, "failed", "rank 1 ended with exit code 7"),
        ({"0": "done", "1": "die"}, 1, "failed", "rank 1 was killed by signal 9"),
        ({"0": "done", "1": "never"}, 3, "never", "cat.png is missing"),
    ],
)
def test_the_attempt_ends_with_its_verdict(run, plan, code, status, reason):
    prepare(run, plan)
    assert start(run).wait(30) == code
    assert (verdict(run)["status"], verdict(run)["reason"]) == (status, reason)
    assert current_holder(run) is None


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


def test_a_signal_before_the_processes_are_ready_is_not_lost(run):
    prepare(run, {"*": "until_stopped"})
    broker = start(run)
    wait_for(run.attempt(1).path)
    broker.send_signal(signal.SIGTERM)
    assert broker.wait(30) == 75
    assert verdict(run)["status"] == "checkpointed"


@pytest.mark.slow
def test_the_peers_of_a_dead_process_do_not_hang_for_ever(run):
    """Slow: the peers get ten seconds to write down what they saw."""
    prepare(run, {"0": "deaf", "1": "die"})
    assert start(run).wait(40) == 1
    assert verdict(run)["rank"] == 1


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
    kinds = [event["kind"] for event in read_lines(run.events)]
    assert kinds == ["attempt_started", "attempt_ended"]
    assert all((p.stat().st_mode & 0o077) == 0 for p in run.attempt(1).path.iterdir())


def test_secrets_of_the_env_file_reach_the_processes_and_no_file(run):
    secret = run.path.parent / "env"
    secret.write_text("HF_TOKEN=hf_plantedplantedplanted\n")
    secret.chmod(0o600)
    prepare(run, {"*": "crash"}, env_file=str(secret))
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
