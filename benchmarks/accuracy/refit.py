"""Fits the few constants of the overhead without a model family, and on all families.

``python benchmarks/accuracy/refit.py`` writes constants.json: one set for every family left out,
and one for all, which planner/memory/overhead.py ships.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.accuracy.memory_scores import by, scores_of
from benchmarks.accuracy.predictions import Answer
from planner.memory.overhead import CONSTANTS, Constants
from planner.prediction import GIB

TABLE = Path(__file__).with_name("constants.json")
GRIDS: dict[str, Sequence[float]] = {
    "context_bytes": [0.1 * GIB * n for n in range(3, 13)],
    "loading_slack_bytes": [0.1 * GIB * n for n in range(16)],
    "fixed_slack": [0.02 * n for n in range(26)],
    "variable_slack": [0.2 * n for n in range(4, 31)],
}
"""What is fitted, and between which values: the ranges of the publications and simulations."""
P95_GRIDS: dict[str, Sequence[float]] = {
    "slack_p95": [1.0 + 0.1 * n for n in range(13)],
    "spread": [1.0 + 0.01 * n for n in range(1, 16)],
}
"""p95: the narrowest that covers 95 % of the rows it is fitted on."""
ROUNDS = 3


@cache
def folds() -> dict[str, Constants]:
    """Constants by the family that was left out; ``all`` are the shipped ones."""
    if not TABLE.exists():
        return {}
    raw: dict[str, dict[str, float]] = json.loads(TABLE.read_text("utf-8"))
    return {family: Constants(**values) for family, values in raw.items()}


def left_out(one: Answer) -> Constants:
    """What was fitted without a row's family; the shipped ones where none of it was used."""
    return folds().get(one.row.family, CONSTANTS)


def shipped(_: Answer) -> Constants:
    """What the planner uses."""
    return CONSTANTS


def fit(answers: Sequence[Answer]) -> Constants:
    """Coordinate descent on the mean over sources of the mean absolute relative error."""
    found = CONSTANTS
    for _ in range(ROUNDS):
        for name, grid in GRIDS.items():
            found = _best(found, name, grid, lambda constants: _loss(answers, constants))
    for _ in range(ROUNDS):
        for name, grid in P95_GRIDS.items():
            found = _best(found, name, grid, lambda constants: _width(answers, constants))
    return found


def _best(
    start: Constants, name: str, grid: Sequence[float], loss: Callable[[Constants], float]
) -> Constants:
    fields: list[dict[str, Any]] = [{name: value} for value in grid]
    return min((replace(start, **field) for field in fields), key=loss)


def _loss(answers: Sequence[Answer], constants: Constants) -> float:
    scores = by(scores_of(answers, lambda _: constants), "source")
    return fmean(fmean(abs(score.error) for score in group) for group in scores.values())


def _width(answers: Sequence[Answer], constants: Constants) -> float:
    """Mean width of p95, with a penalty for covering less than 95 % of the rows."""
    scores = scores_of(answers, lambda _: constants)
    covered = fmean(score.excess <= 0 for score in scores)
    width = float(np.mean([score.p95 / score.p50 for score in scores]))
    worst = max(0.0, max(score.excess for score in scores) - 0.10)
    return width + 20 * max(0.0, 0.95 - covered) + worst


def fitted_on(answers: Sequence[Answer]) -> list[Answer]:
    """The rows that fit: text of tier A and vision-language, with slack in their metric."""
    return [
        one
        for one in answers
        if one.row.measured_bytes
        and (one.row.tier == "A" or not one.row.text)
        and one.workload.memory_metric != "allocated"
    ]


def main() -> None:
    """The command."""
    from benchmarks.accuracy.score import answers_of_all

    answers = fitted_on(answers_of_all()[0])
    families = sorted({one.row.family for one in answers})
    table = {"all": _fields(fit(answers))}
    for family in families:
        table[family] = _fields(fit([one for one in answers if one.row.family != family]))
        print(family, table[family])
    print("all", table["all"])
    TABLE.write_text(json.dumps(table, indent=1) + "\n", "utf-8")


def _fields(constants: Constants) -> dict[str, float]:
    names = Constants.__dataclass_fields__
    return {name: round(float(getattr(constants, name)), 4) for name in names}


if __name__ == "__main__":
    main()
