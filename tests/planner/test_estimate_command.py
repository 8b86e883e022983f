"""``python -m planner estimate``: a line in, a line out, and one clear line for a mistake."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from planner.errors import PlannerError
from planner.estimate_command import estimate_lines

LEAST = {"model": "gemma-2b", "method": "lora", "seq_len": 2048}
VLM = {"model": "llava-1.5-7b", "method": "lora", "seq_len": 1024}


def answers(capsys: Any, path: Path, *workloads: dict[str, object]) -> list[dict[str, Any]]:
    path.write_text("".join(json.dumps(workload) + "\n" for workload in workloads))
    assert estimate_lines([str(path)]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_every_line_is_answered_in_order(tmp_path: Path, capsys: Any) -> None:
    got = answers(capsys, tmp_path / "w.jsonl", LEAST | {"id": "a"}, VLM | {"id": "b"})
    assert [answer["id"] for answer in got] == ["a", "b"]


def test_an_answer_has_the_promised_fields(tmp_path: Path, capsys: Any) -> None:
    (answer,) = answers(capsys, tmp_path / "w.jsonl", LEAST | {"samples": 10_000})
    promised = (
        "fits peak_gib_p50 peak_gib_p95 components_gib step_time_s tokens_per_s hours gpu_hours "
        "cost binding"
    )
    assert all(answer[name] is not None for name in promised.split())
    assert sum(answer["components_gib"].values()) == pytest.approx(answer["peak_gib_p50"], rel=0.01)
    assert answer["peak_gib_p50"] <= answer["peak_gib_p95"]
    assert answer["binding"] in answer["components_gib"]


def test_what_was_not_asked_is_unknown_and_not_zero(tmp_path: Path, capsys: Any) -> None:
    (answer,) = answers(capsys, tmp_path / "w.jsonl", LEAST)
    assert answer["hours"] is None
    assert answer["cost"] is None
    assert answer["peak_gib_p50"] > 0


@pytest.mark.parametrize(
    ("small", "large"),
    [
        (LEAST, LEAST | {"seq_len": 4096}),
        (LEAST, LEAST | {"micro_batch": 4}),
        (LEAST, LEAST | {"grad_ckpt": False}),
        (LEAST, LEAST | {"attention": "eager", "grad_ckpt": False}),
        (LEAST | {"loss": "chunked"}, LEAST),
        (LEAST | {"method": "qlora"}, LEAST),
        (LEAST, LEAST | {"method": "full"}),
        (VLM, VLM | {"towers": "trainable"}),
        (
            LEAST | {"method": "full", "gpus": 8, "sharding": "zero3"},
            LEAST | {"method": "full", "gpus": 8, "sharding": "zero2"},
        ),
        (
            LEAST | {"method": "full", "gpus": 8, "sharding": "zero2", "offload": "optimizer"},
            LEAST | {"method": "full", "gpus": 8, "sharding": "zero2"},
        ),
    ],
)
def test_memory_goes_the_way_that_everyone_knows(
    tmp_path: Path, capsys: Any, small: dict[str, object], large: dict[str, object]
) -> None:
    less, more = answers(capsys, tmp_path / "w.jsonl", small, large)
    assert less["peak_gib_p50"] < more["peak_gib_p50"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"model": "gemma-2b"', "line 2: this is no JSON object"),
        ("[]", "line 2: a workload must be a JSON object"),
        (json.dumps(LEAST | {"gpu": "H1000"}), "line 2: "),
        (json.dumps(LEAST | {"model": "gemma-2c"}), "line 2: "),
        (json.dumps(LEAST | {"model": "/nowhere/config.json"}), "line 2: "),
        (json.dumps(LEAST | {"images_per_sample": 1}), "gemma-2b has no vision tower"),
        (json.dumps(LEAST | {"towers": "trainable"}), "no vision tower: leave towers out"),
        (json.dumps(LEAST | {"method": "projector"}), "method projector trains nothing"),
        (json.dumps(LEAST | {"model": "gpt2", "seq_len": 3000}), "above the 1024 positions"),
        (json.dumps(LEAST | {"model": "opt-1.3b", "seq_len": 3000}), "above the 2048 positions"),
        (json.dumps(LEAST | {"model": {"model_type": "llama", "hiden_size": 8}}), "did you mean"),
        (json.dumps(VLM | {"seq_len": 100}), "shorter than the 576 tokens of its images"),
        (json.dumps(LEAST | {"model": {"model_type": "llama", "hidden_size": -1}}), "line 2: "),
    ],
)
def test_a_wrong_line_is_named_and_nothing_is_printed(
    tmp_path: Path, capsys: Any, line: str, message: str
) -> None:
    path = tmp_path / "w.jsonl"
    path.write_text(json.dumps(LEAST) + "\n" + line + "\n")
    with pytest.raises(PlannerError) as caught:
        estimate_lines([str(path)])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_keep_going_answers_the_wrong_line_with_its_error(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "w.jsonl"
    path.write_text("{}\n" + json.dumps(LEAST) + "\n")
    assert estimate_lines([str(path), "--keep-going"]) == 2
    wrong, right = map(json.loads, capsys.readouterr().out.splitlines())
    assert wrong["line"] == 1
    assert "needs the field" in wrong["error"]
    assert right["fits"] is True


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot read"), (b"", "has no line"), (b"\xff\xfe", "is not UTF-8")],
)
def test_a_file_that_cannot_be_read_is_one_line(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "w.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PlannerError, match=message):
        estimate_lines([str(path)])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "llama-3-8b", "seq_len": 9000}, "seq_len (9000) is above the 8192 positions"),
        ({"gpu": "a100"}, "a100 read as A100-SXM4-80GB (80 GiB)"),
        ({"gpu": "v100"}, "v100 read as V100-SXM2-16GB (16 GiB)"),
        ({"gpus": 16, "sharding": "zero2"}, "interconnect.node_gb_per_s is not given: 200 GB/s"),
        ({"model": {"model_type": "llama", "hidden_size": 2048}}, "from the defaults of llama"),
    ],
)
def test_what_was_assumed_is_noted(
    tmp_path: Path, capsys: Any, change: dict[str, object], words: str
) -> None:
    plain, assumed = answers(capsys, tmp_path / "w.jsonl", LEAST, LEAST | change)
    assert any(words in note for note in assumed["notes"])
    assert not any(words in note for note in plain["notes"])


@pytest.mark.parametrize(
    "change",
    [
        {"gpu": "a100_40gb"},
        {"gpus": 16, "sharding": "zero2", "interconnect": {"node_gb_per_s": 50}},
        {"gpus": 8, "sharding": "zero2"},
    ],
)
def test_what_was_said_is_not_noted(tmp_path: Path, capsys: Any, change: dict[str, object]) -> None:
    plain, said = answers(capsys, tmp_path / "w.jsonl", LEAST, LEAST | change)
    assert said["notes"] == plain["notes"]


@pytest.mark.parametrize("letter", ["\u2028", "\u0085", "\x0c"])
def test_only_a_newline_ends_a_line(tmp_path: Path, capsys: Any, letter: str) -> None:
    path = tmp_path / "w.jsonl"
    line = json.dumps(LEAST | {"id": f"a{letter}b"}, ensure_ascii=False)
    path.write_text(line.replace("\\f", "\\u000c") + "\r\n", encoding="utf-8")
    assert estimate_lines([str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == f"a{letter}b"


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "w.jsonl"
    path.write_text(json.dumps(LEAST), encoding="utf-8-sig")
    assert estimate_lines([str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["fits"] is True


@pytest.mark.parametrize(
    "change",
    [
        {"seq_len": 10**9},
        {"micro_batch": 10**9, "grad_accum": 10**9, "samples": 10**18, "epochs": 1e6},
        {"price_per_gpu_hour": 1e6, "steps": 10**18, "gpus": 8 * 10**8, "sharding": "zero3"},
    ],
)
def test_the_largest_sizes_have_an_answer_that_json_can_say(
    tmp_path: Path, capsys: Any, change: dict[str, object]
) -> None:
    path = tmp_path / "w.jsonl"
    path.write_text(json.dumps(LEAST | change))
    assert estimate_lines([str(path)]) == 0
    out = capsys.readouterr().out
    assert "NaN" not in out
    assert "Infinity" not in out


def test_standard_input_is_a_dash(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(LEAST)))
    assert estimate_lines(["-"]) == 0
    assert json.loads(capsys.readouterr().out)["fits"] is True


def test_from_the_shell_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    path = tmp_path / "w.jsonl"
    path.write_text(json.dumps(LEAST | {"micro_bach": 2}))
    done = subprocess.run(
        [sys.executable, "-m", "planner", "estimate", str(path)], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "did you mean 'micro_batch'?" in done.stderr
