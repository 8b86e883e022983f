"""The ledger never gives the same hours twice, and never takes what it cannot read for zero."""

import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from users import as_user

from hpcjobs.login import spend
from hpcjobs.login.approval import Cleared, release_hours, reserve_hours
from hpcjobs.run.budget_config import Budget
from hpcjobs.run.errors import ConfigError

MINE = frozenset({os.getuid()})


@pytest.fixture
def ledger(tmp_path):
    path = tmp_path / "ledger.jsonl"
    path.touch(mode=0o660)
    return path


def entry(run="a", hours=10.0, project="vlm", state="reserved", plan=None):
    return spend.Entry(
        id=run, project=project, state=state, gpu_hours=hours, plan_hash=plan or f"plan of {run}",
        user="anna", time=0.0,
    )  # fmt: skip


def taken(ledger, project="vlm"):
    return spend.spent([spend.Entry(**json.loads(x)) for x in ledger.open()], project)


def test_hours_are_taken_until_none_are_left(ledger):
    spend.reserve(ledger, MINE, entry("a", 60.0), 100.0)
    with pytest.raises(ConfigError, match="more than the 40 that project vlm has left of 100"):
        spend.reserve(ledger, MINE, entry("b", 50.0), 100.0)
    spend.reserve(ledger, MINE, entry("b", 40.0), 100.0)
    assert taken(ledger) == 100.0


def test_each_project_has_hours_of_its_own(ledger):
    spend.reserve(ledger, MINE, entry("a", 90.0, "llm"), 100.0)
    spend.reserve(ledger, MINE, entry("b", 90.0, "vlm"), 100.0)
    assert (taken(ledger, "llm"), taken(ledger, "vlm")) == (90.0, 90.0)


def test_a_run_that_is_submitted_again_counts_once(ledger):
    spend.reserve(ledger, MINE, entry("a", 60.0), 100.0)
    spend.reserve(ledger, MINE, entry("a", 70.0), 100.0)
    assert taken(ledger) == 70.0


def test_what_was_released_can_be_taken_again(ledger):
    spend.reserve(ledger, MINE, entry("a", 60.0), 100.0)
    spend.release(ledger, MINE, entry("a", 60.0))
    assert taken(ledger) == 0.0
    spend.reserve(ledger, MINE, entry("b", 100.0), 100.0)


def test_what_a_run_really_took_replaces_what_it_reserved(ledger):
    spend.reserve(ledger, MINE, entry("a", 60.0), 100.0)
    with ledger.open("a") as file:
        settled = entry("a", 20.0, state="settled")
        file.write(json.dumps({name: getattr(settled, name) for name in settled.__slots__}) + "\n")
    assert taken(ledger) == 20.0


def test_one_approval_is_for_one_run(ledger):
    spend.reserve(ledger, MINE, entry("a", plan="p"), None)
    with pytest.raises(ConfigError, match="used for a already"):
        spend.reserve(ledger, MINE, entry("b", plan="p"), None)
    spend.release(ledger, MINE, entry("a", plan="p"))
    spend.reserve(ledger, MINE, entry("b", plan="p"), None)


@pytest.mark.parametrize(
    "content",
    [
        b"{}\n",
        b"nonsense\n",
        b'{"id": "a"',
        b'{"id": "a"}\n',
        b"\xff\n",
        b"[" * 50_000 + b"\n",
        json.dumps({"id": "a", "gpu_hours": 1}).encode() + b"\n",
    ],
)
def test_a_ledger_that_cannot_be_read_is_unknown_and_not_zero(ledger, content):
    ledger.write_bytes(content)
    with pytest.raises(ConfigError, match="what was spent is unknown") as error:
        spend.reserve(ledger, MINE, entry(), 100.0)
    assert "\n" not in str(error.value)
    assert ledger.read_bytes() == content


@pytest.mark.parametrize("hours", [-5.0, float("nan"), float("inf")])
def test_no_line_gives_hours_back(ledger, hours):
    spend.reserve(ledger, MINE, entry(), 100.0)
    forged = json.loads(ledger.read_text()) | {"id": "b", "gpu_hours": hours}
    with ledger.open("a") as file:
        file.write(json.dumps(forged) + "\n")
    with pytest.raises(ConfigError, match=r"unknown.*line 2"):
        spend.reserve(ledger, MINE, entry("c"), 100.0)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.unlink(), "cannot use the ledger"),
        (lambda path: (path.rename(f"{path}.x"), path.symlink_to(f"{path}.x")), "cannot use"),
        (lambda path: path.chmod(0o666), "not everybody can write"),
        (lambda path: (path.unlink(), path.mkdir()), "cannot use"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "must be a file"),
    ],
)
def test_only_a_guarded_file_is_a_ledger(ledger, spoil, words):
    spoil(ledger)
    with pytest.raises(ConfigError, match=words):
        spend.reserve(ledger, MINE, entry(), 100.0)


def test_a_ledger_of_a_stranger_is_not_believed(ledger):
    with pytest.raises(ConfigError, match="of root or of an approver"):
        spend.reserve(ledger, frozenset({os.getuid() + 1}), entry(), 100.0)


@pytest.mark.skipif(os.getuid() != 0, reason="needs to be several users in turn")
def test_a_submitter_cannot_bring_a_ledger_of_the_own(tmp_path):
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o777)
        as_user("games", (path / "mine.jsonl").touch)
        budget = Budget(project="vlm", ledger=str(path / "mine.jsonl"), approvers=("daemon",))
        cleared = Cleared(budget, 1.0, "plan", None)
        with pytest.raises(ConfigError, match="of root or of an approver"):
            as_user("games", reserve_hours, cleared, path / "run")


def test_reserving_and_releasing_goes_by_the_run_directory(ledger, tmp_path):
    budget = Budget(project="vlm", ledger=str(ledger), gpu_hours_total=100.0, self_approval=True)
    cleared = Cleared(budget, 60.0, "plan", "anna")
    reserve_hours(cleared, tmp_path / "run")
    assert taken(ledger) == 60.0
    release_hours(cleared, tmp_path / "run")
    assert taken(ledger) == 0.0
    reserve_hours(None, tmp_path / "run")
    reserve_hours(Cleared(Budget(), 60.0, "plan", None), tmp_path / "run")


def _take(path, name, start, answers):
    start.wait()
    try:
        spend.reserve(path, MINE, entry(name, 30.0), 100.0)
        answers.put(True)
    except ConfigError:
        answers.put(False)


@pytest.mark.parametrize("attempt", range(5))
def test_submissions_at_the_same_moment_do_not_share_the_last_hours(ledger, attempt):
    """More than once: without the lock it goes well now and then."""
    context = multiprocessing.get_context("fork")
    start, answers = context.Event(), context.Queue()
    processes = [
        context.Process(target=_take, args=(ledger, f"run {n}", start, answers)) for n in range(8)
    ]
    for process in processes:
        process.start()
    start.set()
    won = [answers.get(timeout=30) for _ in processes]
    for process in processes:
        process.join()
    assert sum(won) == 3
    assert taken(ledger) == 90.0


def test_a_lock_that_nobody_gives_back_ends_in_one_line(ledger, monkeypatch):
    monkeypatch.setattr(spend, "_PATIENCE_S", 0.2)
    context = multiprocessing.get_context("fork")
    held, done = context.Event(), context.Event()

    def hold():
        with spend._locked(ledger, MINE):
            held.set()
            done.wait(20)

    process = context.Process(target=hold)
    process.start()
    try:
        assert held.wait(20)
        began = time.monotonic()
        with pytest.raises(ConfigError, match="locked by another process"):
            spend.reserve(ledger, MINE, entry(), 100.0)
        assert time.monotonic() - began < 5
    finally:
        done.set()
        process.join()


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.floats(0, 1e6),
            st.sampled_from(["reserved", "settled", "released"]),
        ),
        max_size=12,
    )
)
def test_spend_is_the_last_word_of_every_run(lines):
    entries = [entry(run, hours, state=state) for run, hours, state in lines]
    last = {run: (hours, state) for run, hours, state in lines}
    expected = sum(hours for hours, state in last.values() if state != "released")
    assert spend.spent(entries, "vlm") == pytest.approx(expected)
    assert spend.spent(entries, "llm") == 0
