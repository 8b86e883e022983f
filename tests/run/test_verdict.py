"""The verdict of an attempt names the culprit, not the rank that complained first."""

import pytest

from hpcjobs.run.layout import RunDir
from hpcjobs.run.verdict import Verdict, conclude, merge, read_verdict, write_verdict

DONE = Verdict("done", "all steps", 10, 0)
SAVED = Verdict("checkpointed", "stopped on SIGTERM", 4, 0)
RESET = Verdict("failed", "Connection reset by peer", 3, 0)
BAD = Verdict("never", "cat.png is missing", None, 1)


@pytest.mark.parametrize(
    ("said", "exits", "status", "rank"),
    [
        ({0: DONE, 1: DONE}, {0: 0, 1: 0}, "done", 0),
        ({0: SAVED, 1: SAVED}, {0: 0, 1: 0}, "checkpointed", 0),
        ({0: DONE, 1: None}, {0: 0, 1: 0}, "done", 0),
        ({0: RESET, 1: None}, {0: 1, 1: -9}, "failed", 1),
        ({0: None, 1: None}, {0: -15, 1: -15}, "failed", 0),
        ({0: RESET, 1: BAD}, {0: 1, 1: 3}, "never", 1),
        ({0: None, 1: None}, {}, "unknown", None),
        ({0: None, 1: DONE}, {}, "unknown", None),
    ],
)
def test_the_worst_word_wins_and_silence_is_not_success(said, exits, status, rank):
    merged = merge(said, exits)
    assert (merged.status, merged.rank) == (status, rank)


def test_an_attempt_is_concluded_from_its_files(tmp_path):
    run = RunDir(tmp_path)
    attempt = run.attempt(run.new_attempt())
    write_verdict(attempt.rank_verdict(0), RESET)
    verdict = conclude(attempt, 2, {0: 1, 1: -9})
    assert verdict.rank == 1
    assert "rank 1 was killed by signal 9" in verdict.reason
    assert verdict.step == 3


@pytest.mark.parametrize("content", ["", "{", "[]", '{"status": "done"}', '{"x": 1}'])
def test_an_unreadable_verdict_is_no_evidence(tmp_path, content):
    path = tmp_path / "verdict.json"
    path.write_text(content)
    assert read_verdict(path) is None
