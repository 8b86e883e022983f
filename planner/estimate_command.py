"""``python -m planner estimate FILE.jsonl``: one workload a line in, one prediction a line out."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from planner.errors import PlannerError
from planner.estimate import as_record, estimate
from planner.read_workload import read_workload

_EPILOG = """\
A line is a JSON object such as
  {"model": "gemma-2b", "method": "lora", "seq_len": 2048, "gpus": 4, "sharding": "zero2"}
docs/workload.md has an example of every field. FILE - is standard input.

exit codes: 0 every line was answered, 2 a line is wrong (nothing is printed then)
"""


def estimate_lines(argv: Sequence[str]) -> int:
    """Answers every line of a file; returns the exit code.

    Raises:
        PlannerError: names the line that is wrong.
    """
    words = _parse(argv)
    answers = []
    for number, line in _lines(words.file):
        try:
            answers.append(_answer(line))
        except PlannerError as error:
            if not words.keep_going:
                raise PlannerError(f"{words.file} line {number}: {error}") from error
            answers.append({"line": number, "error": str(error)})
    sys.stdout.writelines(json.dumps(answer, allow_nan=False) + "\n" for answer in answers)
    return 2 if any("error" in answer for answer in answers) else 0


def _answer(line: str) -> dict[str, Any]:
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise PlannerError(f"this is no JSON object: {error}") from error
    workload = read_workload(raw)
    return as_record(workload, estimate(workload))


def _lines(name: str) -> Iterator[tuple[int, str]]:
    """The lines that are not empty, numbered from 1."""
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
        text = text.removeprefix("\ufeff")
    except OSError as error:
        raise PlannerError(f"cannot read {name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PlannerError(f"{name} is not UTF-8 text") from error
    numbered = [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not numbered:
        raise PlannerError(f"{name} has no line: write one workload a line")
    yield from numbered


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:  # noqa: ANN401 - never returns
        raise PlannerError(f"{message}; python -m planner estimate --help shows what there is")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="python -m planner estimate",
        description="Predict memory, time and cost of workloads that are described as JSON.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE.jsonl")
    parser.add_argument(
        "--keep-going",
        action="store_true",
        help="answer a wrong line with its error, and go on (the exit code is still 2)",
    )
    return parser.parse_args(argv)
