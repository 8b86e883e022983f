"""What counts against a node, for how long, and which files are believed."""

import json
import os
import pwd
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from users import as_user

from hpcjobs.run.bad_node_files import add_evidence, forget, read_evidence
from hpcjobs.run.bad_nodes import (
    HOUR_S,
    KINDS,
    BadNode,
    Evidence,
    bad_nodes,
    choose_excluded,
    merge_exclude,
)
from hpcjobs.run.errors import ConfigError
from hpcjobs.run.health_config import HealthSettings

RULES = HealthSettings()
NOW = 1_000_000_000.0
DAY = 24 * HOUR_S


def seen(kind, ago_h, run="/runs/a", place=0, node="n1", hours=None):
    return Evidence(node, NOW - ago_h * HOUR_S, kind, f"{kind} seen", run, 1, place, hours)


def until_h(evidence):
    """Hours from now until the node is used again; None where it is used."""
    found = bad_nodes(evidence, NOW, RULES)
    return None if not found else round((found[0].until_s - NOW) / HOUR_S, 3)


@pytest.mark.parametrize(
    ("evidence", "hours_left"),
    [
        ([], None),
        ([seen("health", 1)], 23),
        ([seen("node_fail", 1)], 23),
        ([seen("hardware", 1)], 23),
        ([seen("health", 25)], None),
        ([seen("manual", 1, hours=100)], 99),
        # a relapse after the term doubles it, and doubles it again
        ([seen("health", 30), seen("health", 1)], 47),
        ([seen("health", 150), seen("health", 100), seen("health", 1)], 95),
        # the same incident as several runs see it is one
        ([seen("health", 3, run=f"/runs/{i}") for i in range(5)] + [seen("health", 1)], 23),
        # two months later it is forgiven
        ([seen("health", 60 * 24), seen("health", 1)], 23),
        # never longer than the longest term
        ([seen("health", 24 * 20 * i + 1) for i in range(9)], 336 - 1),
    ],
)
def test_evidence_counts_for_its_term_and_a_relapse_doubles_it(evidence, hours_left):
    assert until_h(evidence) == hours_left


@pytest.mark.parametrize(
    ("evidence", "is_bad"),
    [
        ([seen("culprit", 2)], False),
        ([seen("culprit", 2), seen("culprit", 1)], False),  # the same rank of the same run again
        ([seen("culprit", 2), seen("culprit", 1, run="/runs/b")], True),
        ([seen("culprit", 2, place=0), seen("culprit", 1, place=3)], True),
        ([seen("link", 2), seen("culprit", 1, run="/runs/b")], True),
        ([seen("culprit", 9 * 24), seen("culprit", 1, run="/runs/b")], False),  # a week apart
        ([seen("culprit", 2), seen("culprit", 1, run="/runs/b", node="n2")], False),
    ],
)
def test_a_suspicion_counts_only_with_a_second_independent_one(evidence, is_bad):
    assert bool(bad_nodes(evidence, NOW, RULES)) is is_bad


def test_evidence_from_the_future_is_not_believed_and_a_small_skew_is_borne():
    assert until_h([seen("health", -2)]) is None
    assert until_h([seen("health", -0.5)]) == 24
    assert until_h([seen("manual", -10_000, hours=1e6)]) is None


@given(st.permutations([seen("health", h) for h in (1, 30, 90)] + [seen("culprit", 5)]))
def test_the_order_in_which_files_are_read_does_not_matter(evidence):
    assert until_h(evidence) == 47


@given(
    st.lists(
        st.tuples(st.sampled_from(KINDS), st.floats(0, 5000), st.integers(0, 3), st.integers(0, 3)),
        max_size=30,
    )
)
def test_no_evidence_keeps_a_node_longer_than_the_longest_term(items):
    evidence = [seen(kind, h, run=str(run), place=place) for kind, h, run, place in items]
    for bad in bad_nodes(evidence, NOW, RULES):
        assert NOW < bad.until_s <= NOW + RULES.expire_max_hours * HOUR_S
        assert bad.since_s <= NOW


def bad(node, kind="health", ago_h=1.0):
    evidence = seen(kind, ago_h, node=node)
    return BadNode(node, evidence.time_s, NOW + DAY, (evidence,))


PARTITION = [f"n{i}" for i in range(16)]


@pytest.mark.parametrize(
    ("names", "partition", "needed", "excluded"),
    [
        (["n1", "n2"], PARTITION, 2, ["n1", "n2"]),
        (["n1", "elsewhere"], PARTITION, 2, ["n1"]),
        (["n1", "n2", "n3", "n4", "n5", "n6"], PARTITION, 2, ["n1", "n2", "n3", "n4"]),  # a quarter
        (["n1", "n2"], PARTITION, 15, ["n1"]),  # the job must still fit
        (["n1"], PARTITION, 16, []),
        (["n1", "n2"], ["n1", "n2", "n3"], 1, ["n1"]),  # one may go in any partition
        ([f"m{i:02}" for i in range(40)], None, 2, [f"m{i:02}" for i in range(16)]),
    ],
)
def test_never_more_nodes_are_excluded_than_the_partition_can_spare(
    names, partition, needed, excluded
):
    found = [bad(name, ago_h=index / 100) for index, name in enumerate(names)]
    chosen, dropped = choose_excluded(found, partition, needed, RULES)
    assert chosen == excluded
    assert set(chosen) | set(dropped) >= {n for n in names if partition is None or n in partition}


def test_the_weakest_and_oldest_evidence_is_dropped_first():
    found = [
        bad("n1", "culprit", 0.1),
        bad("n2", "health", 5),
        bad("n3", "manual", 9),
        bad("n4", "health", 2),
    ]
    chosen, dropped = choose_excluded(found, PARTITION[:8], 2, RULES)
    assert (chosen, dropped) == (["n3", "n4"], ["n2", "n1"])


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 60))
def test_the_cap_holds_for_any_partition(size, needed, sick):
    names = [f"n{i}" for i in range(size)]
    chosen, _ = choose_excluded([bad(name) for name in names[:sick]], names, needed, RULES)
    assert len(chosen) <= max(1, size // 4)
    assert len(chosen) <= max(0, size - needed)


def test_the_users_own_list_stays():
    assert merge_exclude(None, []) is None
    assert merge_exclude("a[1-2]", []) == "a[1-2]"
    assert merge_exclude(None, ["n2", "n1"]) == "n1,n2"


# --- files


def write(store, content, name=None, node="n1", mode=0o600):
    path = store / (name or f"{node}@{int(NOW)}-0123abcd.json")
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    path.chmod(mode)
    return path


def good(**changes):
    return {"node": "n1", "time_s": NOW, "kind": "health", "reason": "x", "run": "/r",
            "attempt": 1, "place": 0, "hours": None, **changes}  # fmt: skip


@pytest.fixture
def store(tmp_path):
    store = tmp_path / "store"
    store.mkdir(mode=0o700)
    return store


def test_evidence_comes_back_as_it_was_written_and_is_private(store):
    wanted = Evidence("n1", NOW, "health", "two\nlines", "/runs/a", 3, 1)
    path = add_evidence(store, wanted)
    assert path.stat().st_mode & 0o777 == 0o600
    (found,) = read_evidence(store).evidence
    assert found == Evidence("n1", NOW, "health", "two lines", "/runs/a", 3, 1)


def test_a_store_that_is_not_there_yet_is_empty_and_made_private(tmp_path):
    place = tmp_path / "a" / "b"
    assert read_evidence(place).evidence == []
    add_evidence(place, Evidence("n1", NOW, "health", "x"))
    assert place.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("node", ["", "../x", "a/b", "-n1", "n 1", "n1\n", "a" * 80, "n@1", "*"])
def test_a_name_that_is_no_nodes_is_refused(store, node):
    with pytest.raises(ConfigError, match="no name of a node"):
        add_evidence(store, Evidence(node, NOW, "health", "x"))
    assert list(store.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("no json", "Expecting value"),
        ("[]", "other fields"),
        ({**good(), "more": 1}, "other fields"),
        (good(node="n2"), "says"),
        (good(kind="rumour"), "says"),
        (good(time_s="soon"), "no time"),
        (good(time_s=-1), "no time"),
        (good(hours=True), "no time"),
        (json.dumps(good()).replace(str(NOW), "NaN"), "no time"),
        (good(reason="a\nb"), "text that is none"),
        (good(reason="\x1b[2J"), "text that is none"),
        (good(run=["/r"]), "text that is none"),
        (good(place="0"), "no number"),
        (good(reason="x" * 20_000), "larger"),
        ("[" * 9000, "too deep"),
    ],
)
def test_a_hostile_file_is_ignored_and_named(store, content, why):
    path = write(store, content)
    add_evidence(store, Evidence("n9", NOW, "health", "x"))
    found = read_evidence(store)
    assert [item.node for item in found.evidence] == ["n9"]
    assert len(found.ignored) == 1
    assert path.name in found.ignored[0]
    assert re.search(why, found.ignored[0])


@pytest.mark.parametrize("name", ["n1.json", "n1@5.json", "n1@9-0123abcd.txt", "x\ny", "-rf"])
def test_a_file_of_another_name_is_ignored_and_named_on_one_line(store, name):
    write(store, good(), name=name)
    found = read_evidence(store)
    assert found.evidence == []
    assert len(found.ignored[0].splitlines()) == 1


def test_links_pipes_directories_and_files_that_others_can_change_are_ignored(store, tmp_path):
    elsewhere = write(tmp_path, good())
    (store / f"n1@{int(NOW)}-0000000a.json").symlink_to(elsewhere)
    os.mkfifo(store / f"n1@{int(NOW)}-0000000b.json", 0o600)
    (store / f"n1@{int(NOW)}-0000000c.json").mkdir()
    write(store, good(), name=f"n1@{int(NOW)}-0000000d.json", mode=0o666)
    found = read_evidence(store)
    assert found.evidence == []
    assert len(found.ignored) == 4


def test_a_store_that_everybody_can_write_is_not_believed(store):
    write(store, good())
    store.chmod(0o777)
    found = read_evidence(store)
    assert found.evidence == []
    assert "chmod o-w" in found.ignored[0]


@pytest.fixture
def shared():
    """A directory that other users of this machine reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        place = Path(name) / "shared"
        place.mkdir()
        yield place


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can write as another user")
def test_a_strangers_word_does_not_count_and_a_group_members_does(shared):
    """The operating system says who wrote a file: here nobody, in a sticky shared directory."""
    shared.chmod(0o1777)
    as_user("nobody", write, shared, good())
    assert "not trusted" in read_evidence(shared).ignored[0]
    os.chown(shared, 0, pwd.getpwnam("nobody").pw_gid)
    shared.chmod(0o2770)
    assert [item.node for item in read_evidence(shared).evidence] == ["n1"]
    mine = add_evidence(shared, Evidence("n2", NOW, "health", "x"))
    assert mine.stat().st_mode & 0o777 == 0o640
    assert len(as_user("nobody", read_evidence, shared).evidence) == 2


def test_evidence_is_forgotten_by_name_or_all(store):
    for node in ("n1", "n1", "n2"):
        add_evidence(store, Evidence(node, NOW, "health", "x"))
    assert forget(store, "n1") == (["n1"], [])
    assert [item.node for item in read_evidence(store).evidence] == ["n2"]
    assert forget(store, None) == (["n2"], [])
    assert list(store.iterdir()) == []


def test_what_is_too_old_to_matter_is_removed(store):
    add_evidence(store, Evidence("n1", NOW - 100 * DAY, "health", "x"))
    add_evidence(store, Evidence("n2", NOW, "health", "x"))
    assert [item.node for item in read_evidence(store).evidence] == ["n2"]


def test_writers_at_the_same_moment_lose_nothing(store):
    program = """
import sys
from pathlib import Path
from hpcjobs.run.bad_node_files import add_evidence
from hpcjobs.run.bad_nodes import Evidence
for i in range(20):
    add_evidence(Path(sys.argv[1]), Evidence("n1", 1e9 + i, "culprit", "x", sys.argv[2]))
"""
    writers = [
        subprocess.Popen([sys.executable, "-c", program, str(store), str(i)]) for i in range(4)
    ]
    while any(writer.poll() is None for writer in writers):
        assert read_evidence(store).ignored == []  # a reader never sees half a file
        time.sleep(0.01)
    assert [writer.returncode for writer in writers] == [0] * 4
    assert len(read_evidence(store).evidence) == 80
