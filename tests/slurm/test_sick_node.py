"""A node that is made sick on a real Slurm is found, avoided and remembered; the run goes on.

Slow: a training on two nodes, and Slurm lets a requeued job wait.
"""

import os
import re
import subprocess
import sys

import pytest
from cluster.slurm_cluster import SlurmCluster
from runs import submit, wait_until
from tiny import tiny_words, write_tiny_data

from hpcjobs.run.files import read_lines
from hpcjobs.run.layout import RunDir

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.timeout(600)]


def fill_shared_memory(cluster, node):
    """Gives one node a full /dev/shm: slurmd lives in a mount name space of its own."""
    pid = (cluster.directory / f"run/slurmd.{node}.pid").read_text().strip()
    enter = ["nsenter", "--target", pid, "--mount"]
    if os.geteuid() != 0:
        enter += ["--user", "--preserve-credentials"]
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/dev/shm"]
    subprocess.run([*enter, *mount], check=True)


def start(cluster, data, run, **changes):
    plan = {
        "cluster": "slurm", "cluster.partition": "main", "cluster.mem": "3G",
        "cluster.cpus_per_node": 1, "parallel.nodes": 2, "parallel.gpus_per_node": 1,
        "parallel.device": "auto", "run_dir": run.path,
    }  # fmt: skip
    answer = submit(tiny_words(data, **plan, **changes), run.path.parent, env=cluster.env)
    assert answer.returncode == 0, answer.stderr
    return re.search(r"Slurm job (\d+)", answer.stdout).group(1)


def events(run, kind):
    return [event for event in read_lines(run.events) if event["kind"] == kind]


def finished(run):
    return any(event["verdict"]["status"] == "done" for event in events(run, "attempt_ended"))


def nodes_used(run):
    return [event["nodes"] for event in events(run, "attempt_started")]


def nodes_command(cluster, *words):
    door = subprocess.run(
        [sys.executable, "-m", "hpcjobs.nodes", *words], env={**os.environ, **cluster.env},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return door.stdout


def test_a_sick_node_is_found_avoided_and_remembered(tmp_path, slurm):
    """The first run meets it and goes on without it; the second is not to be given it at all."""
    if not slurm.has_host_names:
        pytest.skip("this machine does not let us unshare name spaces")
    data = write_tiny_data(tmp_path / "data")
    first, second = RunDir(tmp_path / "first"), RunDir(tmp_path / "second")
    with SlurmCluster.running(nnodes=4, cpus=4, gpus=2) as cluster:
        fill_shared_memory(cluster, "node2")
        start(cluster, data, first)
        wait_until(lambda: finished(first), f"the end of {first.path}", 240)
        before, after = nodes_used(first)
        assert "node2" in before
        assert "node2" not in after
        (found, healthy) = events(first, "health")
        assert list(found["unfit"]) == ["node2"]
        assert "/dev/shm" in found["unfit"]["node2"]
        assert healthy["unfit"] == {}
        assert healthy["seconds"] < 10  # 0.6 s on an idle machine
        assert events(first, "attempt_ended")[0]["cause"] == "node"
        assert not list(first.attempt(1).path.glob("rank-*.log"))  # nothing was started on it
        assert first.attempt(2).health(1).exists()
        assert [event["evidence"] for event in events(first, "bad_node")] == ["health"]

        listed = nodes_command(cluster)
        assert "node2" in listed
        assert "first" in listed
        job = start(cluster, data, second, **{"+cluster.sbatch.hold": "true"})
        assert cluster.job(job)["ExcNodeList"] == "node2"

        nodes_command(cluster, "forget", "node2")
        preview = [*tiny_words(data, cluster="slurm", run_dir=tmp_path / "third"), "dry_run=true"]
        assert "--exclude" not in submit(preview, tmp_path, env=cluster.env).stdout
