"""The test cluster is a real one: what the other tests build on is shown here to hold."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
from cluster import slurm_cluster
from cluster.slurm_cluster import SlurmCluster

pytestmark = pytest.mark.slurm

NODES = ["node1", "node2", "node3", "node4"]


def write_script(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(["#!/bin/bash", *lines, ""]))
    return path


def submit(cluster: SlurmCluster, directory: Path, *options: str | Path) -> str:
    """Submit with the directory as the job's own; its output is appended to `out` there."""
    places = [f"--chdir={directory}", f"--output={directory / 'out'}", "--open-mode=append"]
    return cluster.submit(*places, *options)


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def is_running(pid: str) -> bool:
    """Whether the process lives; one that nobody has reaped yet does not."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_every_node_is_idle(slurm: SlurmCluster) -> None:
    assert slurm.node_states() == dict.fromkeys(NODES, "idle")


def test_each_node_has_its_own_host_name(slurm: SlurmCluster, tmp_path: Path) -> None:
    if not slurm.has_host_names:
        pytest.skip("this machine does not let us unshare name spaces")
    job = submit(slurm, tmp_path, "-N2", "--wrap", "srun --label hostname")
    slurm.wait_for_state(job, "COMPLETED")
    assert sorted(lines_of(tmp_path / "out")) == ["0: node1", "1: node2"]


def test_nodes_see_the_files_that_the_test_sees(slurm: SlurmCluster, tmp_path: Path) -> None:
    command = f"srun head -q -n 1 {__file__} {tmp_path}/given && srun test -x {sys.executable}"
    (tmp_path / "given").write_text("given\n")
    job = submit(slurm, tmp_path, "-N2", "--wrap", command)
    slurm.wait_for_state(job, "COMPLETED")
    assert sorted(lines_of(tmp_path / "out")) == sorted([f'"""{__doc__.strip()}"""', "given"] * 2)


def test_jobs_on_one_node_see_different_gpus(slurm: SlurmCluster, tmp_path: Path) -> None:
    show = "srun bash -c 'echo $CUDA_VISIBLE_DEVICES'; until [ -e all ]; do sleep 0.1; done"
    options = ["-w", "node1", "--gpus-per-node=1", "--time=1", "--wrap", show]
    jobs = [submit(slurm, tmp_path, *options) for _ in range(2)]
    out = tmp_path / "out"
    slurm.wait_until(lambda: len(lines_of(out)) == 2, 20, "both jobs to show their GPU")
    assert sorted(lines_of(out)) == ["0", "1"]
    (tmp_path / "all").touch()
    for job in jobs:
        slurm.wait_for_state(job, "COMPLETED")


def test_a_job_sees_no_gpu_that_it_did_not_ask_for(slurm: SlurmCluster, tmp_path: Path) -> None:
    job = submit(slurm, tmp_path, "--wrap", "srun bash -c 'echo ${CUDA_VISIBLE_DEVICES-none}'")
    slurm.wait_for_state(job, "COMPLETED")
    assert lines_of(tmp_path / "out") == ["none"]


def test_preemption_signals_the_steps_only_and_the_job_requeues(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    """The batch script hears nothing of its preemption until the grace time is over."""
    step = write_script(
        tmp_path / "step.sh",
        """trap 'echo "TERM to step $SLURM_PROCID"; until [ -e go ]; do sleep 0.1; done; exit 0' TERM""",
        "echo up",
        "sleep 60 & wait",
    )
    batch = write_script(
        tmp_path / "batch.sh",
        "echo run ${SLURM_RESTART_COUNT:-0}",
        '[ -z "$SLURM_RESTART_COUNT" ] || exit 0',
        "trap 'echo TERM to batch' TERM",
        f"srun bash {step} & wait $!",
        "echo steps ended with $?",
        "trap - TERM; scontrol requeue $SLURM_JOB_ID",
    )
    both = ["-N2", "-w", "node1,node2", "--exclusive"]
    out = tmp_path / "out"
    low = submit(slurm, tmp_path, "-p", "low", "--requeue", *both, batch)
    slurm.wait_until(lambda: lines_of(out).count("up") == 2, 20, "both steps to be up")

    high = submit(slurm, tmp_path, "-p", "high", *both, "--wrap", "true")
    terms = ["TERM to step 0", "TERM to step 1"]
    slurm.wait_until(lambda: set(terms) <= set(lines_of(out)), 20, "SIGTERM in both steps")
    job = slurm.job(low)
    assert job["JobState"] in {"RUNNING", "SIGNALING"}
    assert job["PreemptTime"] != "None"
    assert slurm.job(high)["JobState"] == "PENDING"

    (tmp_path / "go").touch()
    slurm.wait_for_state(high, "COMPLETED")
    assert slurm.wait_for_state(low, "COMPLETED")["Restarts"] == "1"
    told = [line for line in lines_of(out) if not line.startswith(("slurmstepd", "srun"))]
    expected = ["run 0", "up", "up", *terms, "steps ended with 0", "run 1"]
    assert sorted(told[1:5]) == sorted(expected[1:5])
    assert [told[0], *told[5:]] == [expected[0], *expected[5:]]


def test_a_requeued_job_counts_its_restarts(slurm: SlurmCluster, tmp_path: Path) -> None:
    batch = write_script(
        tmp_path / "batch.sh",
        "echo run ${SLURM_RESTART_COUNT:-0}",
        '[ "$SLURM_RESTART_COUNT" = 2 ] || scontrol requeue $SLURM_JOB_ID',
    )
    job = submit(slurm, tmp_path, "-N2", "--requeue", batch)
    for _ in range(2):
        slurm.start_soon(job)
    assert slurm.wait_for_state(job, "COMPLETED")["Restarts"] == "2"
    runs = [line for line in lines_of(tmp_path / "out") if line.startswith("run")]
    assert runs == ["run 0", "run 1", "run 2"]


def test_scancel_signals_the_batch_script_and_does_not_requeue(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    batch = write_script(
        tmp_path / "batch.sh", "trap 'echo TERM; exit 0' TERM", "echo up", "sleep 60 & wait"
    )
    out = tmp_path / "out"
    job = submit(slurm, tmp_path, "-p", "low", "--requeue", batch)
    slurm.wait_until(lambda: lines_of(out) == ["up"], 20, "the batch script to be up")
    slurm.run("scancel", job)
    assert slurm.wait_for_state(job, "CANCELLED")["Restarts"] == "0"
    assert "TERM" in lines_of(out)


@pytest.fixture
def revived(slurm: SlurmCluster) -> Iterator[SlurmCluster]:
    """The cluster, whose nodes are all idle again when the test is over."""
    yield slurm
    slurm.cancel_all()
    for name, state in slurm.node_states().items():
        if state != "idle":
            slurm.node("start", name)
    every_node = dict.fromkeys(NODES, "idle")
    slurm.wait_until(lambda: slurm.node_states() == every_node, 30, "every node to be idle")


def test_a_job_on_a_node_that_dies_runs_again_elsewhere(
    revived: SlurmCluster, tmp_path: Path
) -> None:
    if not revived.has_host_names:
        pytest.skip("without name spaces the processes of a node cannot be told from others")
    batch = write_script(
        tmp_path / "batch.sh",
        "echo $SLURMD_NODENAME $$ $SLURM_RESTART_COUNT",
        '[ -n "$SLURM_RESTART_COUNT" ] || sleep 60',
    )
    out = tmp_path / "out"
    job = submit(revived, tmp_path, "--requeue", batch)
    revived.wait_until(lambda: len(lines_of(out)) == 1, 20, "the batch script to be up")
    lost, pid = lines_of(out)[0].split()

    revived.node("kill", lost)
    assert not is_running(pid)
    # The controller would notice by itself after SlurmdTimeout; an administrator is quicker.
    revived.run("scontrol", "update", f"NodeName={lost}", "State=DOWN", "Reason=test")
    revived.start_soon(job)
    assert revived.wait_for_state(job, "COMPLETED")["Restarts"] == "1"
    node, _, restarts = lines_of(out)[-1].split()
    assert (node != lost, restarts) == (True, "1")


def test_a_job_runs_in_a_directory_with_an_awkward_name(
    slurm: SlurmCluster, weird_tmp_path: Path
) -> None:
    job = submit(slurm, weird_tmp_path, "--wrap", "pwd")
    slurm.wait_for_state(job, "COMPLETED")
    assert lines_of(weird_tmp_path / "out") == [str(weird_tmp_path)]


def ordinary_users_cluster(slurm: SlurmCluster) -> AbstractContextManager[SlurmCluster]:
    return SlurmCluster.running(user="nobody") if os.geteuid() == 0 else nullcontext(slurm)


def test_an_ordinary_user_can_run_a_cluster(slurm: SlurmCluster) -> None:
    """Beside the other one, where root runs that; its jobs may requeue themselves too."""
    with ordinary_users_cluster(slurm) as cluster:
        batch = cluster.directory / "batch.sh"
        write_script(
            batch,
            "echo $(srun bash -c 'echo $SLURMD_NODENAME $(id -u)' | sort)",
            '[ -n "$SLURM_RESTART_COUNT" ] || { scontrol requeue $SLURM_JOB_ID; exit 3; }',
        )
        home = cluster.directory / "home"
        job = submit(cluster, home, "-N2", "--requeue", batch)
        cluster.start_soon(job)
        cluster.wait_for_state(job, "COMPLETED")
        user = int(cluster.run("id", "-u").stdout)
        told = [line for line in lines_of(home / "out") if line.startswith("node")]
    assert user != 0
    assert told == [f"node1 {user} node2 {user}"] * 2


@pytest.fixture
def own_place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where no test run beside this one looks for remains to remove, nor for free ports."""
    with tempfile.TemporaryDirectory(prefix="hpcjobs-left-", dir=slurm_cluster.BASE) as place:
        Path(place).chmod(0o755)  # MUNGE wants everybody to be able to reach its socket
        monkeypatch.setattr(slurm_cluster, "BASE", Path(place))
        monkeypatch.setattr(slurm_cluster, "PORT_BLOCKS", range(20480, 24576, 256))
        yield Path(place)


def test_what_a_killed_test_run_leaves_is_removed(slurm: SlurmCluster, own_place: Path) -> None:
    """Daemons, jobs and directory; the running cluster beside it is let alone."""
    program = f"""
import os, pathlib
from cluster import slurm_cluster
slurm_cluster.BASE = pathlib.Path({str(own_place)!r})
slurm_cluster.PORT_BLOCKS = {slurm_cluster.PORT_BLOCKS!r}
cluster = slurm_cluster.SlurmCluster.create()
cluster.start(nnodes=1)
cluster.submit("--wrap", "echo $$; sleep 600", "--output=out")
print(cluster.directory, flush=True)
os.kill(os.getpid(), 9)
"""
    paths = {"PYTHONPATH": str(Path(__file__).parents[1])}
    killed = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=False,
        env=os.environ | paths,
        text=True,
        timeout=60,
    )
    left = Path(killed.stdout.strip())
    assert left.is_dir(), killed.stderr
    slurm.wait_until(lambda: bool(lines_of(left / "home/out")), 20, "the leftover job to be up")
    daemons = [path.read_text().strip() for path in left.glob("run/*.pid")]
    processes = [*daemons, *lines_of(left / "home/out")]
    assert len(processes) == 4
    assert all(map(is_running, processes))

    cluster = SlurmCluster.create()
    cluster.stop()
    assert not any(map(is_running, processes))
    assert not left.exists()
    assert set(slurm.node_states().values()) == {"idle"}
