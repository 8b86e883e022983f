"""What one run directory measured: steps, peaks, and whether it ran out of memory."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from planner.errors import PlannerError

WARM_UP_STEPS = 3
"""The first steps of an attempt load kernels and grow the allocator; they are left out."""
_BINS = 3
_BIN_STEPS = 5
_SPREAD = 1.15
"""Steps are told apart by their length where the longest tenth is so much longer."""
_OUT_OF_MEMORY = re.compile(r"OutOfMemoryError|out of memory", re.IGNORECASE)


class _Line(msgspec.Struct, frozen=True, kw_only=True):
    """One step, as ``hpcjobs.train`` writes it into ``metrics.jsonl``."""

    time: float
    attempt: int
    step: int
    positions: Annotated[int, msgspec.Meta(ge=1)]
    longest: Annotated[int, msgspec.Meta(ge=1)]
    pictures: Annotated[int, msgspec.Meta(ge=0)]
    step_s: Annotated[float, msgspec.Meta(gt=0)]
    data_wait_share: Annotated[float, msgspec.Meta(ge=0, lt=1)]
    device: str
    peak_allocated_gib: Annotated[float, msgspec.Meta(gt=0)] | None = None
    peak_reserved_gib: Annotated[float, msgspec.Meta(gt=0)] | None = None

    @property
    def is_finite(self) -> bool:
        """JSON of Python may say Infinity and NaN."""
        peaks = (self.peak_allocated_gib or 1.0, self.peak_reserved_gib or 1.0)
        return all(map(math.isfinite, (self.time, self.step_s, self.data_wait_share, *peaks)))

    @property
    def busy_s(self) -> float:
        """Seconds without the wait for data."""
        return self.step_s * (1.0 - self.data_wait_share)


@dataclass(frozen=True, slots=True)
class StepSample:
    """Steps of about the same length."""

    positions: float
    """Positions of one process in a step, padding included."""
    pictures: float
    """Of one process in a step."""
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
    mean_positions: float
    """Of one process in a step."""
    mean_pictures: float
    peak_allocated_gib: float | None
    peak_reserved_gib: float | None
    out_of_memory: bool


def read_run(path: Path) -> RunRecord:
    """Reads a run directory.

    Raises:
        PlannerError: it is none, or it has measured nothing that can be learnt from.
    """
    config = _read_object(path / "config.json")
    lines = _step_lines(path)
    oom = _ran_out_of_memory(path)
    if not lines and not oom:
        raise PlannerError(f"{path} has measured no step")
    return RunRecord(
        run=path.resolve().name,
        config=config,
        packages=_packages(path),
        device=lines[-1].device if lines else "",
        finished=lines[-1].time if lines else 0.0,
        samples=_samples(_steady(lines, _disturbed(path))),
        longest=max((line.longest for line in lines), default=0),
        mean_positions=sum(line.positions for line in lines) / max(1, len(lines)),
        mean_pictures=sum(line.pictures for line in lines) / max(1, len(lines)),
        peak_allocated_gib=max((x.peak_allocated_gib or 0.0 for x in lines), default=0.0) or None,
        peak_reserved_gib=max((x.peak_reserved_gib or 0.0 for x in lines), default=0.0) or None,
        out_of_memory=oom,
    )


def _step_lines(path: Path) -> list[_Line]:
    """The steps that were written down whole.

    Raises:
        PlannerError: there are steps, but none of them in the present form.
    """
    raw = [line for line in _lines(path / "metrics.jsonl") if line.get("kind") == "train"]
    found: list[_Line] = []
    why = "figures that are not finite"
    for one in raw:
        try:
            line = msgspec.convert(one, _Line)
        except msgspec.ValidationError as error:
            why = str(error)
            continue
        found += [line] if line.is_finite else []
    if raw and not found:
        raise PlannerError(f"{path}/metrics.jsonl is of another version or broken ({why})")
    return found


def _steady(lines: Sequence[_Line], disturbed: frozenset[tuple[int, int]]) -> list[_Line]:
    first: dict[int, int] = {}
    for line in lines:
        first[line.attempt] = min(line.step, first.get(line.attempt, line.step))
    return [
        line
        for line in lines
        if line.step >= first[line.attempt] + WARM_UP_STEPS
        and (line.attempt, line.step) not in disturbed
    ]


def _disturbed(path: Path) -> frozenset[tuple[int, int]]:
    """Steps whose clock ran through a checkpoint or a measurement on held-out samples."""
    saved = [e for e in _lines(path / "events.jsonl") if e.get("kind") == "checkpoint"]
    held = [m for m in _lines(path / "metrics.jsonl") if m.get("kind") == "heldout"]
    marks = ((line.get("attempt"), line.get("step")) for line in (*saved, *held))
    return frozenset((a, s + 1) for a, s in marks if isinstance(a, int) and isinstance(s, int))


def _samples(lines: Sequence[_Line]) -> tuple[StepSample, ...]:
    """Up to three groups by length; one where all steps are alike or few."""
    if not lines:
        return ()
    ordered = sorted(lines, key=lambda line: line.positions)
    low, high = np.quantile([line.positions for line in ordered], [0.1, 0.9])
    bins = min(_BINS, len(ordered) // _BIN_STEPS) if high > _SPREAD * low else 1
    groups = np.array_split(np.arange(len(ordered)), max(1, bins))
    return tuple(_sample([ordered[int(i)] for i in group]) for group in groups)


def _sample(lines: Sequence[_Line]) -> StepSample:
    busy = [line.busy_s for line in lines]
    return StepSample(
        positions=float(np.mean([line.positions for line in lines])),
        pictures=float(np.mean([line.pictures for line in lines])),
        busy_s=float(np.median(busy)),
        p90_s=float(np.quantile(busy, 0.9)),
        wait_s=float(np.median([line.step_s * line.data_wait_share for line in lines])),
        steps=len(lines),
    )


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
