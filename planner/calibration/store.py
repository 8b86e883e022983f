"""The calibration as a file: all observations, what was learnt from them, and how well it does."""

import datetime as dt
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from planner.calibration.curves import MEMORY_WIDTHS, TIME_WIDTHS
from planner.calibration.errors import Errors, memory_errors, time_errors
from planner.calibration.fit import Levels, fit_memory, fit_time
from planner.calibration.observation import MemoryObservation, TimeObservation
from planner.calibration.robust_fit import LIMIT
from planner.errors import PlannerError
from planner.memory.overhead import CONSTANTS as MEMORY_CONSTANTS
from planner.output_file import replace_file
from planner.time.constants import DEFAULT as TIME_CONSTANTS

CALIBRATION_VERSION = 1


class Calibration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that runs have taught the planner."""

    version: int
    created: str
    """ISO 8601, UTC."""
    planner: str
    """The planner whose errors were learnt: another one makes others."""
    stack: str
    """Versions of the newest run; plans are made for them."""
    runs: dict[str, float]
    """When each run ended, in Unix seconds."""
    time: tuple[TimeObservation, ...]
    memory: tuple[MemoryObservation, ...]
    time_levels: Levels
    memory_levels: Levels
    time_errors: dict[str, Errors]
    memory_errors: dict[str, Errors]


def default_path() -> Path:
    """Where the calibration lies unless a path is given: the user's own configuration."""
    return Path.home() / ".config" / "hpcjobs" / "calibration.json"


def planner_version() -> str:
    """A fingerprint of the constants that calibrations correct."""
    words = repr((CALIBRATION_VERSION, TIME_CONSTANTS, MEMORY_CONSTANTS))
    return hashlib.sha256(words.encode()).hexdigest()[:12]


def learn(
    runs: dict[str, float],
    time: Sequence[TimeObservation],
    memory: Sequence[MemoryObservation],
    now: dt.datetime,
) -> Calibration:
    """Fits every level and measures its errors; a pure function of the observations."""
    newest = max(runs, key=lambda run: runs[run], default=None)
    stacks = [o.key.stack for o in time if o.run == newest]
    stacks += [o.key.stack for o in memory if o.run == newest]
    return Calibration(
        version=CALIBRATION_VERSION,
        created=now.isoformat(timespec="seconds"),
        planner=planner_version(),
        stack=stacks[0] if stacks else "",
        runs=dict(runs),
        time=tuple(time),
        memory=tuple(memory),
        time_levels=fit_time(time),
        memory_levels=fit_memory(memory),
        time_errors=time_errors(time),
        memory_errors=memory_errors(memory),
    )


def read_calibration(path: Path) -> Calibration | None:
    """Reads a calibration; None where there is no such file.

    Raises:
        PlannerError: it cannot be read, or is of another version.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PlannerError(f"cannot read the calibration {path}: {error.strerror}") from error
    remedy = "remove it, and calibrate again from the run directories"
    try:
        version = msgspec.json.decode(content, type=dict[str, Any]).get("version")
        if version == CALIBRATION_VERSION:
            return _checked(msgspec.json.decode(content, type=Calibration))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise PlannerError(f"{path} holds no calibration ({error}): {remedy}") from error
    raise PlannerError(f"{path} is of version {version}, not {CALIBRATION_VERSION}: {remedy}")


def _checked(calibration: Calibration) -> Calibration:
    """Refuses levels that no fit could have made.

    Raises:
        ValueError: names the level.
    """
    kinds = ((calibration.time_levels, TIME_WIDTHS), (calibration.memory_levels, MEMORY_WIDTHS))
    for levels, widths in kinds:
        for name, level in levels.items():
            if len(level.theta) != len(widths) or any(abs(x) > LIMIT for x in level.theta):
                raise ValueError(f"the level {name} is wrong")
    return calibration


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Replaces the file in one step, readable by its owner only.

    Raises:
        PlannerError: the file cannot be written.
    """
    content = json.dumps(msgspec.to_builtins(calibration), indent=1).encode() + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PlannerError(f"cannot write the calibration {path}: {error.strerror}") from error
    replace_file(path, content)
