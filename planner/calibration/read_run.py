"""What one run directory measured: steps, peaks, and whether it ran out of memory."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from planner.errors import PlannerError

WARM_UP_STEPS = 3
"""The first steps of an attempt load kernels and grow the allocator; they are left out."""
_BINS = 3
_BIN_STEPS = 5
_SPREAD = 1.15
"""Steps are told apart by their length where the longest tenth is so much longer."""
_OUT_OF_MEMORY = re.compile(r"OutOfMemoryError|out of memory", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class StepSample:
    """Steps of about the same length."""

    positions: float
    """Positions of one process in a step, padding included."""
    busy_s: float
    """Median seconds without the wait for data."""
    p90_s: float
    wait_s: float
    """Median seconds of waiting for data."""
    steps: int


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The measurements of one run."""

    run: str
    config: Mapping[str, Any]
    packages: Mapping[str, str | None]
    device: str
    finished: float
    """Unix seconds of the last measurement."""
    samples: tuple[StepSample, ...]
    longest: int
    """The longest row of any micro batch."""
    mean_length: float
    peak_allocated_gib: float | None
    peak_reserved_gib: float | None
    out_of_memory: bool


def read_run(path: Path) -> RunRecord:
    """Reads a run directory.

    Raises:
        PlannerError: it is none, or it has measured nothing that can be learnt from.
    """
    config = _read_object(path / "config.json")
    lines = [line for line in _lines(path / "metrics.jsonl") if line.get("kind") == "train"]
    oom = _ran_out_of_memory(path)
    if not lines and not oom:
        raise PlannerError(f"{path} has measured no step")
    usable = [line for line in lines if "positions" in line and "device" in line]
    if lines and not usable:
        raise PlannerError(f"{path} was made by a version that wrote no lengths down")
    steady = _steady(usable, _disturbed(path))
    try:
        return RunRecord(
            run=path.resolve().name,
            config=config,
            packages=_packages(path),
            device=str(usable[-1]["device"]) if usable else "",
            finished=float(usable[-1]["time"]) if usable else 0.0,
            samples=_samples(steady),
            longest=max((int(line["longest"]) for line in usable), default=0),
            mean_length=_mean_length(config, usable),
            peak_allocated_gib=_peak(usable, "peak_allocated_gib"),
            peak_reserved_gib=_peak(usable, "peak_reserved_gib"),
            out_of_memory=oom,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise PlannerError(f"{path}/metrics.jsonl is of another version ({error!r})") from error


def _steady(
    lines: Sequence[Mapping[str, Any]], disturbed: frozenset[tuple[int, int]]
) -> list[Mapping[str, Any]]:
    first: dict[int, int] = {}
    for line in lines:
        first[line["attempt"]] = min(line["step"], first.get(line["attempt"], line["step"]))
    return [
        line
        for line in lines
        if line["step"] >= first[line["attempt"]] + WARM_UP_STEPS
        and (line["attempt"], line["step"]) not in disturbed
        and line["step_s"] > 0
    ]


def _disturbed(path: Path) -> frozenset[tuple[int, int]]:
    """Steps whose clock ran through a checkpoint or a measurement on held-out samples."""
    saved = [e for e in _lines(path / "events.jsonl") if e.get("kind") == "checkpoint"]
    held = [m for m in _lines(path / "metrics.jsonl") if m.get("kind") == "heldout"]
    return frozenset((line.get("attempt", 0), line.get("step", 0) + 1) for line in (*saved, *held))


def _samples(lines: Sequence[Mapping[str, Any]]) -> tuple[StepSample, ...]:
    """Up to three groups by length; one where all steps are alike or few."""
    if not lines:
        return ()
    ordered = sorted(lines, key=lambda line: float(line["positions"]))
    positions = [float(line["positions"]) for line in ordered]
    low, high = np.quantile(positions, [0.1, 0.9])
    bins = min(_BINS, len(ordered) // _BIN_STEPS) if high > _SPREAD * low else 1
    groups = np.array_split(np.arange(len(ordered)), max(1, bins))
    return tuple(_sample([ordered[int(i)] for i in group]) for group in groups)


def _sample(lines: Sequence[Mapping[str, Any]]) -> StepSample:
    busy = [float(line["step_s"]) * (1.0 - float(line["data_wait_share"])) for line in lines]
    wait = [float(line["step_s"]) * float(line["data_wait_share"]) for line in lines]
    return StepSample(
        positions=float(np.mean([float(line["positions"]) for line in lines])),
        busy_s=float(np.median(busy)),
        p90_s=float(np.quantile(busy, 0.9)),
        wait_s=float(np.median(wait)),
        steps=len(lines),
    )


def _mean_length(config: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> float:
    parallel = config["parallel"]
    world = parallel["nodes"] * parallel["gpus_per_node"]
    rows = config["train"]["global_batch"] / world
    return float(np.mean([line["positions"] for line in lines])) / rows if lines else 0.0


def _peak(lines: Sequence[Mapping[str, Any]], name: str) -> float | None:
    return max((float(line[name]) for line in lines if name in line), default=None)


def _ran_out_of_memory(path: Path) -> bool:
    """Whether the last attempt says that a card was full."""
    attempts = sorted(
        (p for p in (path / "attempts").glob("*") if p.name.isdigit()), key=lambda p: int(p.name)
    )
    if not attempts:
        return False
    said = [_read_or_none(file) for file in attempts[-1].glob("verdict*.json")]
    return any(
        isinstance(verdict, dict)
        and verdict.get("status") == "failed"
        and _OUT_OF_MEMORY.search(str(verdict.get("reason", "")))
        for verdict in said
    )


def _packages(path: Path) -> dict[str, str | None]:
    record = _read_or_none(path / "record.json")
    packages = record.get("packages") if isinstance(record, dict) else None
    return packages if isinstance(packages, dict) else {}


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole JSON lines of a file; a missing file has none, broken lines are left out."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise PlannerError(f"cannot read {path}: {error.strerror}") from error
    found = []
    for line in content.splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise PlannerError(
            f"{path.parent} is no run directory: cannot read {path.name}: {error.strerror}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise PlannerError(f"{path} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise PlannerError(f"{path} must be a JSON object")
    return value


def _read_or_none(path: Path) -> object:
    try:
        value: object = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return value
