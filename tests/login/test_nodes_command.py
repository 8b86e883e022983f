"""``python -m hpcjobs.nodes`` as a user types it."""

import json
import os
import subprocess
import sys
import time

import pytest

from hpcjobs.node.health_exclude import nodes_to_exclude, partition_nodes, store_of
from hpcjobs.run.bad_node_files import add_evidence
from hpcjobs.run.bad_nodes import Evidence


def nodes(*words, code=0, env=None):
    done = subprocess.run(
        [sys.executable, "-m", "hpcjobs.nodes", *words],
        capture_output=True, text=True, timeout=60,
        env={**os.environ, "COLUMNS": "160", **(env or {})},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr if code else done.stdout


def evidence(node="gpu1", kind="health", reason="/dev/shm is full", run="/runs/a"):
    return Evidence(node, time.time(), kind, reason, run, 2, 0)


def test_nothing_is_known_at_first():
    assert "no bad nodes are known" in nodes()
    assert json.loads(nodes("--json"))["nodes"] == []


def test_a_marked_node_is_listed_with_its_reason_until_it_is_forgotten():
    assert "48 hours" in nodes("mark", "gpu1", "--reason", "loud [red]fans[/]", "--hours", "48")
    listed = nodes()
    assert "gpu1" in listed
    assert "loud [red]fans[/]" in listed
    assert "48 h from now" in listed
    assert nodes("forget", "gpu1") == "forgotten: gpu1\n"
    assert "no bad nodes" in nodes()


def test_all_evidence_and_the_runs_that_saw_it_are_shown():
    store = store_of(None)
    add_evidence(store, evidence(run="/runs/one"))
    add_evidence(store, evidence(run="/runs/two"))
    add_evidence(store, evidence("gpu2", "culprit"))  # a single suspicion is no bad node
    (found,) = json.loads(nodes("--json"))["nodes"]
    assert found["runs"] == ["/runs/one", "/runs/two"]
    assert [item["attempt"] for item in found["evidence"]] == [2, 2]
    assert 23.9 * 3600 < found["until_s"] - time.time() < 24 * 3600
    assert "one, two" in nodes()


def test_what_is_not_believed_is_named(tmp_path):
    store = store_of(None)
    path = add_evidence(store, evidence())
    path.chmod(0o666)
    assert "others can change it" in nodes()
    assert path.name in json.loads(nodes("--json"))["ignored"][0]


def test_a_group_has_a_store_of_its_own(tmp_path):
    shared = str(tmp_path / "shared")
    nodes("--store", shared, "mark", "gpu1", "--reason", "x")
    assert "gpu1" in nodes("--store", shared)
    assert "gpu1" not in nodes()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["mark", "../x", "--reason", "y"], 2, "no name of a node"),
        (["mark", "gpu1", "--reason", " "], 2, "--reason is empty"),
        (["mark", "gpu1"], 2, "--reason"),
        (["mark", "gpu1", "--reason", "y", "--hours", "0"], 2, "greater than 0"),
        (["mark", "gpu1", "--reason", "y", "--hours", "nan"], 2, "finite"),
        (["mark", "all", "--reason", "y"], 2, "name one node"),
        (["forget", "gpu9"], 2, "nothing is known of 'gpu9'"),
        (["forget"], 2, "node"),
        (["burn"], 2, "invalid choice"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(words, code, said):
    text = nodes(*words, code=code)
    assert said in text
    assert len(text.splitlines()) == 1


def slurm_that_says(**answers):
    """Stands for Slurm's commands where there is none; answers by the program's name."""

    def run(argv):
        text = answers.get(argv[0])
        code = 1 if text is None else 0
        return subprocess.CompletedProcess(list(argv), code, text or "", "")

    return run


def test_clusters_that_share_a_home_keep_their_nodes_apart():
    one, two, none = (
        store_of(None, slurm_that_says(scontrol=f"ClusterName             = {name}\n"))
        for name in ("alps", "jura", "../x")
    )
    assert (one.name, two.name, none.name) == ("alps", "jura", "unknown")
    assert one.parent == two.parent


def test_the_default_partition_is_the_one_with_the_star():
    text = "node1 main*\nnode2 main*\nnode2 low\nnode3 low\n"
    assert partition_nodes(None, slurm_that_says(sinfo=text)) == {"node1", "node2"}
    assert partition_nodes("low", slurm_that_says(sinfo="node2 low\nnode3 low\n")) == {
        "node2", "node3",
    }  # fmt: skip
    assert partition_nodes("low", slurm_that_says()) is None


def test_slurm_is_asked_only_where_a_node_is_bad(tmp_path):
    def never(argv):
        raise AssertionError(argv)

    assert nodes_to_exclude(tmp_path / "none", "low", 2, run=never) == []
    add_evidence(tmp_path, evidence("n1"))
    text = "".join(f"n{i} low\n" for i in range(8))
    assert nodes_to_exclude(tmp_path, "low", 2, run=slurm_that_says(sinfo=text)) == ["n1"]
    assert nodes_to_exclude(tmp_path, "low", 8, run=slurm_that_says(sinfo=text)) == []
