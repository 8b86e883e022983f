"""What goes wrong at the planner's door: one line, exit code 2, nothing half-written."""

import io
import json
from pathlib import Path

import pytest

from hpcjobs.login.door import run_door
from planner.__main__ import main
from planner.models.older_decoders import LEARNED_POSITIONS
from planner.models.presets import preset_names
from planner.models.read import architecture_of

GOOD = {"model": "gemma-2b", "method": "lora", "seq_len": 512}
INLINE = {"model_type": "llama", "hidden_size": 256, "num_attention_heads": 4}
WRONG = {
    "negative length": {"seq_len": -1},
    "no length": {"seq_len": []},
    "no lengths in a histogram": {"seq_len": {"values": []}},
    "weights that weigh nothing": {"seq_len": {"values": [5, 6], "weights": [0, 0]}},
    "half a micro batch": {"micro_batch": 1.5},
    "no cards": {"gpus": 0},
    "eight cards without a wrapper": {"gpus": 8},
    "a node and a half": {"gpus": 12, "sharding": "zero2"},
    "price of zero": {"price_per_gpu_hour": 0},
    "unknown card": {"gpu": "B9000"},
    "unknown field": {"seqlen": 5},
    "unknown bits": {"method": {"kind": "qlora", "bits": 3}},
    "unknown targets": {"method": {"kind": "lora", "targets": ["c_attn"]}},
    "pictures for a text model": {"images_per_sample": 1},
    "more pictures than tokens": {"model": "llava-1.5-7b", "images_per_sample": 4},
    "directory without config.json": {"model": "/"},
    "negative dimension": {"model": {**INLINE, "hidden_size": -1}},
    "heads that do not divide": {"model": {**INLINE, "num_attention_heads": 7}},
    "unknown family": {"model": {"model_type": "nobody_knows"}},
}


def door(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """The exit code and both streams of a command."""
    code = run_door(main, words)
    streams = capsys.readouterr()
    return code, streams.out, streams.err


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_line_is_one_line_on_stderr_and_nothing_on_stdout(
    change: dict[str, object],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Good lines around the wrong one are not answered either."""
    lines = [json.dumps(GOOD), json.dumps(GOOD | change), json.dumps(GOOD)]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    code, out, err = door(["estimate", "-"], capsys)
    assert (code, out) == (2, "")
    assert err.startswith("error: - line 2: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_every_preset_is_answered_with_parts_that_add_up(
    method: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """No family's layers are unknown to the memory model or to the clock."""
    lines = [
        json.dumps(GOOD | {"model": name, "method": method, "seq_len": _length(name)})
        for name in NAMES
    ]
    file = tmp_path / "presets.jsonl"
    file.write_text("\n".join(lines))
    code, out, err = door(["estimate", str(file)], capsys)
    assert (code, err) == (0, "")
    for name, answer in zip(NAMES, map(json.loads, out.splitlines()), strict=True):
        parts = sum(answer["components_gib"].values())
        assert parts == pytest.approx(answer["peak_gib_p50"], abs=0.02), name
        assert answer["peak_gib_p50"] <= answer["peak_gib_p95"], name
        assert answer["step_time_s"] > 0, name


NAMES = preset_names()


def _length(name: str) -> int:
    """Long enough for all tiles of an image, and no longer than learned positions reach."""
    learned = architecture_of(name).language_model.family in LEARNED_POSITIONS
    return 1000 if learned else 3000


@pytest.mark.parametrize(
    "words",
    [
        ["report=page.pdf"],
        ["report="],
        ["report=nowhere/page.html"],
        ["plan=nowhere/plan.json"],
        ["report=taken.html"],
        ["planner.deadline_hours=nan"],
        ["planner.budget=0"],
        ["planner.lengths.values=[0]"],
        ["planner.cards=[{gpu: A100-SXM4-80GB, price: 0}]"],
        ["planner.prices=missing.csv"],
        ["cluster.gpu_type=B9000"],
    ],
    ids=lambda words: words[0],
)
def test_a_plan_that_cannot_be_made_leaves_no_file(
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Neither a page nor a partial one, and no traceback."""
    (tmp_path / "taken.html").mkdir()
    monkeypatch.chdir(tmp_path)
    code, out, err = door(["+experiment=mgm_lora", *words], capsys)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["taken.html"]
