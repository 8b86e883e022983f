"""A training on two nodes of a real Slurm whose ranks stand still: ended, explained, gone on with.

Slow: three attempts of two real training processes, each of which imports torch, in one job.
"""

import os
import re

import pytest
from runs import submit, trained_steps, wait_until
from tiny import tiny_words, write_tiny_data

from hpcjobs.run.files import read_json, read_lines
from hpcjobs.run.layout import RunDir

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.timeout(600)]

STEPS = 60

# Python imports this by itself. In the first attempt rank 1 never joins one of its all-reduces; in
# the second a loader of rank 0 waits for ever for the content of a file.
SITECUSTOMIZE = """
import builtins, os, sys, time
plain_import = builtins.__import__
calls = 0

def absent_minded(plain):
    def all_reduce(*args, **kwargs):
        global calls
        calls += 1
        while calls > 60:
            time.sleep(60)
        return plain(*args, **kwargs)
    return all_reduce

def dead_file_system(plain):
    def read_for_ever(*args, **kwargs):
        global calls
        calls += 1
        return plain(*args, **kwargs) if calls < 12 else os.open(os.environ["FIFO"], os.O_RDONLY)
    return read_for_ever

attempt, rank = sys.argv[-1], os.environ.get("RANK")
module, name, faulty = {
    ("1", "1"): ("torch.distributed", "all_reduce", absent_minded),
    ("2", "0"): ("PIL.Image", "open", dead_file_system),
}.get((attempt, rank), (None, None, None))

def watching_import(*args, **kwargs):
    imported = plain_import(*args, **kwargs)
    target = sys.modules.get(module)
    if hasattr(target, name) and builtins.__import__ is watching_import:
        builtins.__import__ = plain_import
        setattr(target, name, faulty(getattr(target, name)))
    return imported

if module:
    builtins.__import__ = watching_import
"""


@pytest.fixture(scope="module")
def run(slurm, tmp_path_factory):
    """A run that hung twice and ended well."""
    place = tmp_path_factory.mktemp("hang")
    data, run = write_tiny_data(place / "data"), RunDir(place / "run")
    (place / "site").mkdir()
    (place / "site" / "sitecustomize.py").write_text(SITECUSTOMIZE)
    os.mkfifo(place / "fifo")
    plan = {
        "cluster": "slurm", "cluster.partition": "low", "cluster.mem": "3G",
        "parallel.nodes": 2, "parallel.gpus_per_node": 1, "parallel.device": "auto",
        "cluster.cpus_per_node": 1, "train.steps": STEPS, "train.checkpoint.every_steps": 5,
        "watch.hang_s": 5, "watch.start_s": 90, "data.workers": 2, "run_dir": run.path,
        "+cluster.env.PYTHONPATH": place / "site", "+cluster.env.FIFO": place / "fifo",
    }  # fmt: skip
    answer = submit(tiny_words(data, **plan), place, env=slurm.env)
    assert answer.returncode == 0, answer.stderr
    assert re.search(r"Slurm job (\d+)", answer.stdout)
    wait_until(run.attempt(3).verdict.exists, f"the third attempt of {run.path}", 300)
    return run


def host_of(run, attempt, node):
    return read_json(run.attempt(attempt).exit_codes(node))["host"]


def test_a_rank_that_never_joins_a_collective_is_named_and_not_the_one_that_waits(run):
    verdict = read_json(run.attempt(1).verdict)
    assert (verdict["status"], verdict["cause"], verdict["rank"]) == ("failed", "hang", 1)
    assert verdict["node"] == host_of(run, 1, node=1) != host_of(run, 1, node=0)
    assert "all_reduce at site/sitecustomize.py" in verdict["reason"]
    assert "rank 0 waited" in verdict["reason"]
    assert "distributed_c10d.py" in run.attempt(1).stacks(0).read_text()
    assert "in train_step" in run.attempt(1).stacks(1).read_text()


def test_a_loader_that_waits_for_a_dead_file_system_is_named(run):
    verdict = read_json(run.attempt(2).verdict)
    assert (verdict["cause"], verdict["rank"]) == ("hang", 0)
    assert verdict["node"] == host_of(run, 2, node=0)
    assert "in data after step" in verdict["reason"]
    assert "loader in read_for_ever at site/sitecustomize.py" in verdict["reason"]
    assert "rank 1 waited" in verdict["reason"]


def test_the_run_goes_on_in_the_same_allocation_and_ends(run):
    assert read_json(run.attempt(3).verdict)["status"] == "done"
    assert len(trained_steps(run)) == STEPS
    began = [event for event in read_lines(run.events) if event["kind"] == "attempt_started"]
    assert len({event["job_id"] for event in began}) == 1
    assert {event["restarts"] for event in began} == {0}
