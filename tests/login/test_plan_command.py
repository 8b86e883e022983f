"""``python -m planner`` as a user types it: a plan, its files, or one line of error."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from planner.plan_file import read_plan

LORA = "+experiment=mgm_lora"
H200 = "cluster.gpu_type=h200"
"""The largest card: what fits on it does not hang on a constant."""


def planner(tmp_path, *words):
    return subprocess.run(
        [sys.executable, "-m", "planner", *words], cwd=tmp_path, capture_output=True, text=True
    )


def test_a_plan_is_printed_and_nothing_is_written(tmp_path):
    answer = planner(tmp_path, LORA)
    assert answer.returncode == 0, answer.stderr
    assert "Chosen" in answer.stdout
    line = answer.stdout.splitlines()[-1]
    assert line.startswith("submit it with: python -m hpcjobs.submit +experiment=mgm_lora cluster.")
    assert line.endswith(" parallel=auto")
    assert list(tmp_path.iterdir()) == []


def test_the_command_that_is_printed_submits_the_choice(tmp_path):
    answer = planner(tmp_path, LORA, H200, "plan=plan.json")
    words = shlex.split(answer.stdout.splitlines()[-1].partition(": ")[2])
    assert words[:3] == ["python", "-m", "hpcjobs.submit"]
    shown = subprocess.run(
        [sys.executable, *words[1:], "dry_run=true"], cwd=tmp_path, capture_output=True, text=True
    )
    gpus = read_plan(tmp_path / "plan.json").chosen.gpus_per_node
    assert f"--gpus-per-node=h200:{gpus}" in shown.stdout


def test_the_plan_goes_into_a_file_and_the_page_beside_it(tmp_path):
    words = [LORA, H200, "plan=plan.json", "report=report.md"]
    answer = planner(tmp_path, *words)
    assert answer.returncode == 0, answer.stderr
    plan = read_plan(tmp_path / "plan.json")
    assert plan.chosen.gpu == "H200-SXM"
    assert (tmp_path / "report.md").read_text().startswith("#")
    assert {p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == {0o600}


def test_json_is_the_plan(tmp_path):
    answer = planner(tmp_path, LORA, H200, "--json", "planner.keep_layout=true")
    assert answer.returncode == 0, answer.stderr
    chosen = json.loads(answer.stdout)["chosen"]
    assert (chosen["gpus"], chosen["sharding"], chosen["micro_batch"]) == (4, "zero2", 1)


def test_what_is_typed_is_kept_and_the_rest_is_searched(tmp_path):
    answer = planner(tmp_path, LORA, H200, "--json", "parallel=zero1", "parallel.micro_batch=2")
    chosen = json.loads(answer.stdout)["chosen"]
    assert (chosen["sharding"], chosen["micro_batch"]) == ("zero1", 2)


def test_nothing_possible_is_an_answer_with_the_nearest_plan(tmp_path):
    answer = planner(tmp_path, LORA, "planner.deadline_hours=0.1", "plan=plan.json")
    assert answer.returncode == 1
    assert "cannot be met" in read_plan(tmp_path / "plan.json").nearest
    assert "submit it with" not in answer.stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "no experiment is named: write +experiment=NAME"),
        (["estimat"], 2, "there is no command 'estimat'; did you mean 'estimate'?"),
        ([LORA, "report=page.pdf"], 2, "has none of the endings .html, .md, .json"),
        ([LORA, "plan="], 2, "plan is empty: write plan=FILE"),
        ([LORA, "plan=/nowhere/plan.json"], 2, "cannot write /nowhere/plan.json"),
        ([LORA, "planner.deadline=5"], 2, "did you mean 'planner.deadline_hours'?"),
        ([LORA, "planner.budget=0"], 2, "planner: budget must be greater than 0"),
        ([LORA, "planner.cards=[{gpu: Z80}]"], 2, "no card is called 'Z80'"),
        ([LORA, "planner.cards=[{gpu: L40S, price: 0}]"], 2, "price must be greater than 0"),
        ([LORA, "planner.lengths.values=[0]"], 2, "each of values must be at least 1"),
        ([LORA, "planner.shardings=[]"], 2, "shardings is empty"),
        ([LORA, "planner.time_limit=soon"], 2, "time 'soon' is none of"),
        ([LORA, "planner.lengths.mean=300"], 2, "counts pictures too, and one takes 576 tokens"),
        ([LORA, "parallel.micro_batch=5"], 2, "a global batch of 128 cannot be kept exactly"),
        ([LORA, "planner.lengths.max=100"], 2, "planner.lengths.max (100) counts pictures too"),
        ([LORA, "planner.lengths.values=[700]"], 2, "planner.lengths.mean=null"),
        (["--config-dir", "nowhere", LORA], 2, "is not a directory"),
    ],
)
def test_a_mistake_is_one_line(words, code, said, tmp_path):
    answer = planner(tmp_path, *words)
    assert answer.returncode == code, (answer.stdout, answer.stderr)
    assert said in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["parallel=auto"],
        ["train.global_batch=127"],
        ["parallel.micro_batch=1", "train.global_batch=129"],
        ["parallel=zero1", H200],
        ["parallel=auto", H200, "planner.shardings=[zero3]", "planner.offloads=[optimizer_params]"],
        ["planner.keep_layout=true", H200],
    ],
)
def test_every_plan_prints_a_line_that_submits_its_choice(tmp_path, words):
    answer = planner(tmp_path, LORA, *words, "plan=plan.json")
    assert answer.returncode == 0, answer.stderr
    line = shlex.split(answer.stdout.splitlines()[-1].removeprefix("submit it with: "))
    shown = subprocess.run(
        [sys.executable, *line[1:], "dry_run=true"], cwd=tmp_path, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    chosen = read_plan(tmp_path / "plan.json").chosen
    name = line[[word.startswith("cluster.gpu_type=") for word in line].index(True)]
    assert f"--gpus-per-node={name.partition('=')[2]}:{chosen.gpus_per_node}" in shown.stdout
    if "parallel=auto" in line:
        stage = chosen.sharding.removeprefix("zero")
        assert f"ZeRO-{stage}" in shown.stderr
        assert f"micro batch {chosen.micro_batch} x" in shown.stderr
        assert ("in host memory" in shown.stderr) == (chosen.offload != "none")


def test_a_batch_that_the_own_layout_does_not_divide_is_planned_and_not_submitted(tmp_path):
    words = [LORA, "train.global_batch=127", H200]
    assert planner(tmp_path, *words, "--json").returncode == 0
    shown = subprocess.run(
        [sys.executable, "-m", "hpcjobs.submit", *words, "dry_run=true"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert shown.returncode == 2
    assert "global_batch" in shown.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plan=p.json", "report=/nowhere/r.html"], "cannot write /nowhere/r.html"),
        (["plan=p.html", "report=p.html"], "are one file"),
        (["plan=p.json", "report=link.md", "report=target.md"], "are one file"),
        (["plan=p.json", "report=pipe.html"], "it is no regular file"),
        (["plan=pipe.html"], "it is no regular file"),
        (["plan=to_pipe"], "it is no regular file"),
        (["plan=loop"], "cannot write loop"),
    ],
)
def test_places_are_checked_before_anything_is_written(tmp_path, words, said):
    os.mkfifo(tmp_path / "pipe.html")
    (tmp_path / "link.md").symlink_to("target.md")
    (tmp_path / "to_pipe").symlink_to("pipe.html")
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(path.name for path in tmp_path.iterdir())
    answer = planner(tmp_path, LORA, H200, *words)
    assert answer.returncode == 2, (answer.stdout, answer.stderr)
    assert said in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (tmp_path / "pipe.html").is_fifo()


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "plan.json").symlink_to("real/plan.json")
    assert planner(tmp_path, LORA, H200, "plan=plan.json").returncode == 0
    assert (tmp_path / "plan.json").is_symlink()
    assert read_plan(tmp_path / "real" / "plan.json").chosen is not None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_behind_the_output_is_one_line(tmp_path):
    with Path("/dev/full").open("w") as full:
        answer = subprocess.run(
            [sys.executable, "-m", "planner", LORA, H200],
            cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert answer.returncode == 3
    assert answer.stderr == (
        "error: cannot write the output: No space left on device; look at where it goes\n"
    )
