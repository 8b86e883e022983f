"""Runs as a user starts them, and comparisons of what they left behind."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from hpcjobs.run.files import read_json, read_lines
from hpcjobs.run.layout import RunDir
from hpcjobs.run.manifest import committed_steps, step_dir


def command(words: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "hpcjobs.submit", *words]


def submit(
    words: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None, timeout_s: float = 120
) -> subprocess.CompletedProcess[str]:
    """Runs the submission to its end and returns what it printed."""
    return subprocess.run(
        command(words), cwd=cwd, env={**os.environ, **(env or {})}, text=True,
        capture_output=True, timeout=timeout_s,
    )  # fmt: skip


def start(words: Sequence[str], cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(words), cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def wait_until(predicate: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not predicate():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(0.02)


def trained_steps(run: RunDir) -> dict[int, dict]:
    """The last line of every step; a step that was trained again counts as it was then."""
    return {line["step"]: line for line in read_lines(run.metrics) if line["kind"] == "train"}


def assert_equal_runs(one: RunDir, other: RunDir) -> None:
    """Losses, norms, rates, weights, optimizer, RNG and results are equal to the last bit."""
    left, right = trained_steps(one), trained_steps(other)
    assert left.keys() == right.keys()
    for step, line in left.items():
        for figure in ("loss", "grad_norm", "lr", "samples", "tokens"):
            assert line[figure] == right[step][figure], (step, figure)
    last = committed_steps(one.checkpoints)[-1]
    assert committed_steps(other.checkpoints)[-1] == last
    assert_equal_directories(step_dir(one.checkpoints, last), step_dir(other.checkpoints, last))
    for name in ("adapter/adapter_model.safetensors", "projector.safetensors"):
        assert (one.result / name).read_bytes() == (other.result / name).read_bytes()
    assert read_json(one.result_file) == read_json(other.result_file)


def assert_equal_directories(one: Path, other: Path) -> None:
    names = sorted(path.name for path in one.glob("*.pt"))
    assert names
    assert names == sorted(path.name for path in other.glob("*.pt"))
    for name in names:
        left = torch.load(one / name, weights_only=False)
        right = torch.load(other / name, weights_only=False)
        assert_equal_values(left, right, name)


def assert_equal_values(left: object, right: object, where: str) -> None:
    assert type(left) is type(right), where
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right), where
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            assert_equal_values(left[key], right[key], f"{where}.{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), where
        for index, pair in enumerate(zip(left, right, strict=True)):
            assert_equal_values(*pair, f"{where}[{index}]")
    elif isinstance(left, str | int | float | bool | None):
        assert left == right, where
