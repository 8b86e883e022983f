"""A verdict is written whole, and what cannot be read is no evidence."""

import pytest

from hpcjobs.run.verdict import Verdict, read_verdict, write_verdict


def test_a_verdict_comes_back_as_it_was(tmp_path):
    verdict = Verdict("failed", "für 模型", 3, 1, cause="crash", root="x", node="n1")
    write_verdict(tmp_path / "verdict.json", verdict)
    assert read_verdict(tmp_path / "verdict.json") == verdict


@pytest.mark.parametrize("content", ["", "{", "[]", '{"status": "done"}', '{"x": 1}'])
def test_an_unreadable_verdict_is_no_evidence(tmp_path, content):
    path = tmp_path / "verdict.json"
    path.write_text(content)
    assert read_verdict(path) is None
