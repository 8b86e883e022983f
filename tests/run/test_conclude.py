"""The verdict of an attempt names the culprit, not the rank that complained first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcjobs.run.conclude import Trace, conclude, merge
from hpcjobs.run.launch import Launch
from hpcjobs.run.layout import RunDir
from hpcjobs.run.node_end import NodeEnd, read_node_end, write_node_end
from hpcjobs.run.verdict import Verdict, write_verdict

DONE = Verdict("done", "all steps", 10, 0)
SAVED = Verdict("checkpointed", "stopped on SIGTERM", 4, 0)
RESET = Verdict("failed", "RuntimeError: [/x/pair.cc:534] Connection reset by peer", 3, 0)
WRONG = Verdict("failed", "ValueError: 3 samples at 0x7f", 3, 2)
BAD = Verdict("never", "cat.png is missing", None, 1)
FULL = Verdict("never", "the disk is full", None, 1, cause="storage_full")

ECHO_LINE = "terminate called: what(): Connection closed by peer"


def trace(rank, said=None, code=None, **more):
    return Trace(rank, said, code, **more)


@pytest.mark.parametrize(
    ("traces", "status", "cause", "rank"),
    [
        ([trace(0, DONE, 0), trace(1, DONE, 0)], "done", "done", 0),
        ([trace(0, SAVED, 0), trace(1, SAVED, 0)], "checkpointed", None, 0),
        ([trace(0, DONE, 0), trace(1, None, 0)], "done", "done", 0),
        ([trace(0, RESET, 1), trace(1, None, -9)], "failed", "crash", 1),
        ([trace(0, None, -15), trace(1, None, -15)], "failed", "crash", 0),
        ([trace(0, None, 1), trace(1, None, -11)], "failed", "crash", 1),
        ([trace(0, RESET, 1), trace(1, BAD, 3)], "never", "never", 1),
        ([trace(0, RESET, 1), trace(1, FULL, 3)], "never", "storage_full", 1),
        ([trace(0, RESET, 1), trace(1), trace(2, WRONG, 1)], "failed", "crash", 2),
        ([trace(0, None, -6, last_line=ECHO_LINE), trace(1), trace(2, WRONG, 1)], "failed", "crash", 2),
        ([trace(0, None, -6, last_line=ECHO_LINE), trace(1, None, 7)], "failed", "crash", 1),
        ([trace(0, RESET, 1), trace(1)], "failed", "crash", 0),
        ([trace(0), trace(1)], "unknown", "unknown", None),
        ([trace(0), trace(1, DONE)], "unknown", "unknown", None),
    ],
)  # fmt: skip
def test_the_worst_word_wins_and_silence_is_not_success(traces, status, cause, rank):
    merged = merge(traces)
    assert (merged.status, merged.cause, merged.rank) == (status, cause, rank)


@pytest.mark.parametrize(
    ("traces", "reason", "root"),
    [
        ([trace(0, RESET, 1), trace(1, None, -9, host="n2", last_line="loading 7 shards")],
         "rank 1 on n2 was killed by signal 9; its log ends with: loading 7 shards",
         "was killed by signal 9: loading # shards"),
        ([trace(0, None, -9, host="n1", memory_killed=True)],
         "rank 0 on n1 was killed by signal 9, and the kernel killed for memory on its node just then",
         "was killed by signal 9, and the kernel killed for memory on its node just then"),
        ([trace(0, None, -11, memory_killed=True)], "rank 0 was killed by signal 11",
         "was killed by signal 11"),
        ([trace(0, None, 255, last_line="FATAL: image is gone")],
         ("rank 0 ended with exit code 255, which a container's own failure has; its log ends with: "
          "FATAL: image is gone"),
         "ended with exit code 255, which a container's own failure has: FATAL: image is gone"),
        ([trace(2, WRONG, 1, host="n3")], "rank 2 on n3: ValueError: 3 samples at 0x7f",
         "ValueError: # samples at #"),
        ([trace(rank, None, 1) for rank in range(6)],
         ("rank 0 ended with exit code 1, rank 1 ended with exit code 1, rank 2 ended with exit code "
          "1, rank 3 ended with exit code 1, and 2 more"), "ended with exit code 1"),
    ],
)  # fmt: skip
def test_the_reason_names_rank_node_end_and_line(traces, reason, root):
    merged = merge(traces)
    assert (merged.reason, merged.root) == (reason, root)


said = st.none() | st.builds(
    Verdict, st.sampled_from(["done", "checkpointed", "failed", "never"]), st.text(max_size=20)
)
traces = st.builds(
    Trace, st.integers(0, 9), said, st.none() | st.integers(-15, 255), st.none() | st.just("n1"),
    st.none() | st.text(max_size=20), st.booleans(),
)  # fmt: skip


@given(st.lists(traces, max_size=6))
def test_whatever_was_left_gives_a_verdict_and_a_death_is_never_success(left):
    merged = merge(left)
    if any(t.fell_silent or (t.said and t.said.status in ("failed", "never")) for t in left):
        assert merged.status in ("failed", "never")
        assert merged.cause


def test_an_attempt_is_concluded_from_its_files(tmp_path):
    run = RunDir(tmp_path)
    attempt = run.attempt(run.new_attempt())
    write_verdict(attempt.rank_verdict(0), RESET)
    write_node_end(attempt.exit_codes(0), NodeEnd("n1", {0: 1}, complete=True))
    write_node_end(attempt.exit_codes(1), NodeEnd("n2", {1: -9}, failed_at=7.0, oom_kills=1))
    attempt.rank_log(1).write_bytes(b"\x1b[31mstep 12\x00\n" * 9000 + b"Killed\n")
    verdict = conclude(attempt, Launch("python", 2, 1, 1, True, {}, None))
    assert (verdict.rank, verdict.node, verdict.cause, verdict.step) == (1, "n2", "crash", 3)
    assert "rank 1 on n2 was killed by signal 9, and the kernel killed for memory" in verdict.reason
    assert verdict.reason.endswith("its log ends with: Killed")


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"exits": 1}', '{"host": "a", "exits": {"x": 1}}']
)
def test_what_an_agent_left_unreadable_is_no_evidence(tmp_path, content):
    path = tmp_path / "exit-node-0.json"
    path.write_text(content)
    assert read_node_end(path) is None
