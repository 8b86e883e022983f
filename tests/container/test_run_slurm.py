"""An ordinary user's run in a SIF on a real Slurm of two nodes under proctrack/linuxproc.

There Slurm signals every process of a step, the one that mounts the image included.

Slow: two trainings with real processes in containers, one of them preempted and requeued.
"""

import importlib
import os
import pkgutil
import pwd
import shutil
from functools import partial
from pathlib import Path

import pytest
from cluster.slurm_cluster import SlurmCluster
from runs import assert_equal_runs, trained_steps, wait_until
from tiny import tiny_words, write_tiny_data
from users import as_user, show_to_everybody

import hpcjobs.login
import hpcjobs.node
import hpcjobs.run
import planner
from hpcjobs.login.submit import submit
from hpcjobs.run.files import read_json, read_lines
from hpcjobs.run.layout import RunDir

pytestmark = [
    pytest.mark.slow, pytest.mark.slurm, pytest.mark.container, pytest.mark.timeout(900),
]  # fmt: skip

ORDINARY = "nobody"
STEPS = 150
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def user():
    """An ordinary account where this one can become another, else this one."""
    if os.geteuid() != 0:
        return None
    shown = partial(show_to_everybody, REPOSITORY)
    assert as_user(ORDINARY, os.access, REPOSITORY / "conf", os.R_OK, first=shown)
    return ORDINARY


@pytest.fixture
def place(open_tmp_path, user):
    path = open_tmp_path / "a user's place"
    path.mkdir()
    write_tiny_data(path / "data, own")
    if user is not None:
        for each in (path, *path.rglob("*")):
            os.chown(each, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
    yield path
    shutil.rmtree(path) if not os.environ.get("KEEP") else None


def words(place, run, image, partition):
    plan = {
        "cluster": "slurm", "cluster.partition": partition, "cluster.mem": "3G",
        "cluster.python": "/usr/bin/python3", "cluster.cpus_per_node": 1,
        "parallel.nodes": 2, "parallel.gpus_per_node": 1,
        "container": "apptainer", "container.image": image,
        "data.workers": 1, "train.steps": STEPS, "train.checkpoint.every_steps": 50, "run_dir": run.path,
    }  # fmt: skip
    return tiny_words(place / "data, own", **plan)


def submit_as(user, cluster, place, run, image, partition):
    """Submits in a process of the user's own, which may have no right to this interpreter."""
    _load_everything()

    def submission():
        os.environ.update(cluster.environ(USER=user or "", XDG_STATE_HOME=str(place / "state")))
        os.chdir(place)
        return submit(words(place, run, image, partition))

    me = user or pwd.getpwuid(os.getuid()).pw_name
    answer = as_user(me, submission, first=partial(show_to_everybody, REPOSITORY))
    assert answer == 0
    return str(next(iter(read_lines(run.submissions)))["job_id"])


def _load_everything():
    for name in ("encodings.ascii", "submitit.slurm.slurm", "submitit.core.utils"):
        importlib.import_module(name)
    for package in (hpcjobs.login, hpcjobs.node, hpcjobs.run, planner):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)


def wait_for_verdict(run, attempt, timeout_s=300):
    path = run.attempt(attempt).verdict
    wait_until(path.exists, f"the verdict of attempt {attempt} of {run.path}", timeout_s)
    return read_json(path)


def test_a_preempted_run_in_a_sif_is_requeued_and_ends_bit_equal(user, place, image):
    calm, run = RunDir(place / "calm"), RunDir(place / "preempted, run:1")
    with SlurmCluster.running(user=user, nnodes=4, cpus=1, gpus=0, grace=60) as cluster:
        assert "linuxproc" in cluster.run("scontrol", "show", "config").stdout
        submit_as(user, cluster, place, calm, image, "main")
        job_id = submit_as(user, cluster, place, run, image, "low")
        wait_until(lambda: len(trained_steps(run)) >= 10, "ten steps", 300)
        nodes = cluster.job(job_id)["NodeList"]
        cluster.run("sbatch", "-p", "high", "-N2", "-w", nodes, "--exclusive", "-o", "/dev/null",
                    "--wrap", "sleep 2")  # fmt: skip
        first = wait_for_verdict(run, 1)
        assert first["status"] == "checkpointed", first
        assert wait_for_verdict(run, 2)["status"] == "done"
        assert wait_for_verdict(calm, 1)["status"] == "done"
        assert cluster.job(job_id)["Restarts"] == "1"
    log = run.attempt(1).rank_log(0).read_text() + run.attempt(1).rank_log(1).read_text()
    assert "ModuleNotFoundError" not in log
    starts = [event for event in read_lines(run.events) if event["kind"] == "training"]
    assert [event["first"] for event in starts] == [0, first["step"]]
    assert_equal_runs(calm, run)
