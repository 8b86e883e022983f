"""``python -m planner calibrate RUNS...``: learns from what runs have measured."""

import argparse
import datetime as dt
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from planner.calibration.errors import Errors
from planner.calibration.observation import MemoryObservation, TimeObservation
from planner.calibration.observe import observe
from planner.calibration.read_run import RunRecord, read_run
from planner.calibration.store import (
    Calibration,
    default_path,
    learn,
    planner_version,
    read_calibration,
    write_calibration,
)
from planner.errors import PlannerError

_EPILOG = """\
RUN is a run directory, or a directory of run directories. What earlier runs have taught is kept;
a run that is given again replaces itself. docs/calibration.md tells what is learnt and how.

exit codes: 0 written, 2 no run could be used, or the file is broken
"""


def calibrate(argv: Sequence[str]) -> int:
    """Reads runs, learns, and writes the calibration; returns the exit code.

    Raises:
        PlannerError: no run can be used, or the calibration cannot be read or written.
    """
    words = _parse(argv)
    path = words.output or default_path()
    before = None if words.fresh else read_calibration(path)
    if before is not None and before.planner != planner_version():
        sys.stderr.write(
            f"{len(before.runs)} runs were learnt by an older planner: give them again\n"
        )
        before = None
    records, problems = _read(words.runs)
    calibration, unknown = _learnt(before, records)
    for problem in (*problems, *unknown):
        sys.stderr.write(f"left out: {problem}\n")
    if len(records) == len(unknown):
        raise PlannerError("none of the runs could be used: name finished run directories")
    write_calibration(path, calibration)
    sys.stdout.write("\n".join([*report(calibration), f"written: {path}"]) + "\n")
    return 0


def report(calibration: Calibration) -> list[str]:
    """What was learnt, as lines of a table."""
    lines = [f"{len(calibration.runs)} runs, {calibration.stack or 'unknown versions'}"]
    for title, errors in (
        ("step time", calibration.time_errors),
        ("memory", calibration.memory_errors),
    ):
        lines.append(
            f"{title:<10} {'runs':>5} {'before':>8} {'after':>8}   (mean error, run left out)"
        )
        lines += [_row(name, found) for name, found in errors.items()]
    return lines


def _row(name: str, errors: Errors) -> str:
    after = "unknown" if errors.after is None else f"{errors.after:.1%}"
    return f"{'':<10} {errors.runs:>5} {errors.before:>8.1%} {after:>8}   {name}"


def _read(paths: Sequence[Path]) -> tuple[list[RunRecord], list[str]]:
    records, problems = [], []
    for path in _run_dirs(paths):
        try:
            records.append(read_run(path))
        except PlannerError as error:
            problems.append(str(error))
    return records, problems


def _run_dirs(paths: Sequence[Path]) -> Iterator[Path]:
    """Run directories, and those inside of other directories."""
    for path in paths:
        inside = [] if (path / "config.json").exists() else sorted(path.glob("*/config.json"))
        yield from ([config.parent for config in inside] or [path])


def _learnt(
    before: Calibration | None, records: Sequence[RunRecord]
) -> tuple[Calibration, list[str]]:
    """The calibration from old and new runs, and why some new ones are not in it."""
    new = {record.run for record in records}
    runs = {} if before is None else {r: t for r, t in before.runs.items() if r not in new}
    time: list[TimeObservation] = [o for o in (before.time if before else ()) if o.run not in new]
    memory: list[MemoryObservation] = [
        o for o in (before.memory if before else ()) if o.run not in new
    ]
    problems = []
    for record in records:
        try:
            observed = observe(record)
        except PlannerError as error:
            problems.append(f"{record.run}: {error}")
            continue
        runs[record.run] = record.finished
        time += observed.time
        memory += observed.memory
    return learn(runs, time, memory, dt.datetime.now(tz=dt.UTC)), problems


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:  # noqa: ANN401 - never returns
        raise PlannerError(f"{message}; python -m planner calibrate --help shows what there is")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="python -m planner calibrate",
        description="Learn from runs what the planner gets wrong.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+")
    parser.add_argument(
        "--output", "-o", metavar="FILE", type=Path, help=f"by default {default_path()}"
    )
    parser.add_argument("--fresh", action="store_true", help="forget what earlier runs taught")
    return parser.parse_args(argv)
