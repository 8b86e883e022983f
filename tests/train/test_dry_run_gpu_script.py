"""The script that measures a real GPU refuses without one, and goes on where it stopped."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_memory.py"


def script(*words):
    return subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_in_one_line():
    done = script()
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "torch sees no GPU here" in done.stderr


def test_figures_of_a_cpu_never_get_into_the_file_of_the_gpu():
    done = script("--device", "cpu", "--model", "tiny")
    assert done.returncode == 2
    assert "--csv FILE" in done.stderr


@pytest.mark.slow  # two trainings, each with its imports
def test_it_measures_resumes_and_scores(tmp_path):
    file = tmp_path / "tiny.csv"
    words = ("--device", "cpu", "--model", "tiny", "--csv", str(file), "--limit", "1")
    for rows in (1, 2):
        assert script(*words).returncode == 0
        with file.open(newline="") as lines:
            measured = list(csv.DictReader(lines))
        assert [row["outcome"] for row in measured] == ["ok"] * rows
    assert len({row["id"] for row in measured}) == 2
    for row in measured:
        assert int(row["allocated_bytes"]) == max(
            int(row[f"{phase}_peak_bytes"]) for phase in ("forward", "backward", "step")
        )
        assert float(row["step_s"]) > 0
    done = script("--score", "--csv", str(file))
    assert "allocated: 2 rows, mean" in done.stdout
