"""What an attempt's end says against its nodes, with a real Slurm to ask."""

import time

import pytest

from hpcjobs.node.health import expand_hosts
from hpcjobs.node.health_blame import blame_lost_nodes, blame_nodes, view_nodes
from hpcjobs.run.bad_node_files import read_evidence
from hpcjobs.run.events import record_event
from hpcjobs.run.files import make_private_dir, read_lines
from hpcjobs.run.launch import Launch
from hpcjobs.run.layout import RunDir
from hpcjobs.run.verdict import Verdict, write_verdict

pytestmark = pytest.mark.slurm

JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[1-3]"}
ECC = "RuntimeError: CUDA error: uncorrectable ECC error encountered\n"


@pytest.fixture
def cluster(slurm, monkeypatch):
    """The cluster as this process sees it; node3 is failing."""
    for name, value in slurm.env.items():
        monkeypatch.setenv(name, value)
    slurm.run("scontrol", "update", "NodeName=node3", "State=FAIL", "Reason=test")
    slurm.wait_until(lambda: slurm.node_states()["node3"].startswith("fail"), 20, "node3 to fail")
    yield slurm
    slurm.run("scontrol", "update", "NodeName=node3", "State=RESUME")
    slurm.wait_until(lambda: slurm.node_states()["node3"] == "idle", 20, "node3 to be idle")


@pytest.fixture
def run(tmp_path):
    run = RunDir(tmp_path / "run")
    make_private_dir(run.attempt(1).path)
    return run


def launch(tmp_path, nodes=3):
    return Launch("python", nodes, 1, 1, True, {}, None, bad_nodes=str(tmp_path / "store"))


def known(tmp_path):
    return sorted((e.node, e.kind, e.place) for e in read_evidence(tmp_path / "store").evidence)


def test_the_blame_follows_the_verdict_the_logs_and_slurm(cluster, run, tmp_path):
    cases = [
        (Verdict("done", "finished", cause="done"), []),
        (Verdict("checkpointed", "x", cause="preempted", node="node2"), []),
        (Verdict("failed", "x", cause="crash"), []),
        (Verdict("failed", "x", cause="crash", node="node2"), [("node2", "culprit", 1)]),
        (Verdict("failed", "x", cause="hang", node="node1"), [("node1", "culprit", 0)]),
        (Verdict("failed", "x", cause="hang", node="elsewhere"), []),
        (Verdict("failed", "x", cause="node", node="node3"), [("node3", "node_fail", 2)]),
        (Verdict("unknown", "x", cause="unknown"), [("node3", "node_fail", 2)]),
    ]
    for index, (verdict, evidence) in enumerate(cases):
        place = tmp_path / str(index)
        blame_nodes(run, launch(place), 1, verdict, JOB)
        assert known(place) == evidence, verdict


def test_a_sick_card_in_a_log_is_worth_more_than_a_suspicion(cluster, run, tmp_path):
    run.attempt(1).rank_log(1).write_text(ECC)
    blame_nodes(run, launch(tmp_path), 1, Verdict("failed", "x", cause="crash", node="node1"), JOB)
    assert known(tmp_path) == [("node2", "hardware", 1)]


def test_the_only_node_of_a_job_is_not_suspected(cluster, run, tmp_path):
    alone = {**JOB, "SLURM_JOB_NODELIST": "node1"}
    verdict = Verdict("failed", "x", cause="crash", node="node1")
    blame_nodes(run, launch(tmp_path, nodes=1), 1, verdict, alone)
    assert known(tmp_path) == []


@pytest.mark.parametrize(
    ("verdict", "evidence"),
    [
        (None, [("node3", "node_fail", 2)]),  # the broker died with its node
        (Verdict("failed", "x", cause="node"), [("node3", "node_fail", 2)]),
        (Verdict("checkpointed", "x", cause="preempted"), []),
    ],
)
def test_a_new_broker_remembers_the_nodes_that_its_forerunner_lost(
    cluster, run, tmp_path, verdict, evidence
):
    record_event(run, "attempt_started", attempt=1, nodes=["node1", "node2", "node3"])
    if verdict is not None:
        write_verdict(run.attempt(1).verdict, verdict)
    blame_lost_nodes(run, launch(tmp_path), JOB)
    assert known(tmp_path) == evidence


def test_a_node_that_was_booted_since_the_attempt_began_was_lost(cluster, run, tmp_path):
    booted = view_nodes(["node1"])["node1"].booted_s
    assert booted is not None
    assert booted < time.time()
    before = RunDir(tmp_path / "before")
    make_private_dir(before.attempt(1).path)
    before.events.write_text(
        f'{{"kind":"attempt_started","time":{booted - 60},"attempt":1,"nodes":["node1"]}}\n'
    )
    blame_lost_nodes(before, launch(tmp_path), JOB)
    assert known(tmp_path) == [("node1", "node_fail", 0)]


def test_a_store_that_cannot_be_written_stops_nothing_and_is_said(cluster, run, tmp_path):
    (tmp_path / "store").write_text("a file")
    blame_nodes(run, launch(tmp_path), 1, Verdict("failed", "x", cause="node"), JOB)
    (said,) = [event for event in read_lines(run.events) if event["kind"] == "bad_node"]
    assert said["node"] == "node3"
    assert "not_remembered" in said


def test_without_a_cluster_nothing_is_known_and_nobody_is_blamed(run, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert view_nodes(["node1"]) == {}
    assert expand_hosts("node[1-2]") == ["node[1-2]"]
    blame_nodes(run, launch(tmp_path), 1, Verdict("unknown", "x"), JOB)
    assert known(tmp_path) == []
    assert not (tmp_path / "store").exists()
