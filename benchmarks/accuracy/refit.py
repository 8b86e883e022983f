"""Fits the few constants of the overhead without a model family, and on all families.

``python benchmarks/accuracy/refit.py`` writes constants.json: one set for every family left out,
and one for all, which planner/memory/overhead.py ships.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.accuracy.folds import TABLE
from benchmarks.accuracy.memory_scores import by, scores_of
from benchmarks.accuracy.predictions import Answer
from planner.cards import card_of
from planner.memory.overhead import CONSTANTS, Constants
from planner.prediction import GIB
from planner.time.fit import Observation
from planner.time.fit import fit as fit_time

GRIDS: dict[str, Sequence[float]] = {
    "loading_slack_bytes": [0.1 * GIB * n for n in range(13)],
    "variable_slack": [0.2 * n for n in range(4, 31)],
}
"""What is fitted at the median; the rest is published or simulated."""
P95_GRIDS: dict[str, Sequence[float]] = {
    "slack_p95": [1.0 + 0.1 * n for n in range(21)],
    "variable_p95": [1.0 + 0.25 * n for n in range(21)],
    "spread": [1.0 + 0.01 * n for n in range(1, 19)],
}
"""p95: the narrowest that covers 95 % of the rows it is fitted on."""
ROUNDS = 3


def fit(answers: Sequence[Answer]) -> Constants:
    """Coordinate descent on the mean over sources of the mean absolute relative error."""
    found = CONSTANTS
    slack = [one for one in answers if one.workload.memory_metric != "allocated"]
    for _ in range(ROUNDS):
        for name, grid in GRIDS.items():
            found = _best(found, name, grid, lambda constants: _loss(slack, constants))
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
    """Width of p95, with a penalty for covering less than 95 % of the rows."""
    scores = scores_of(answers, lambda _: constants)
    covered = fmean(score.excess <= 0 for score in scores)
    ratios = [score.p95 / score.p50 for score in scores]
    wide = max(0.0, median(ratios) - 1.13)
    worst = max(0.0, max(score.excess for score in scores) - 0.10)
    return fmean(ratios) + 10 * max(0.0, 0.95 - covered) + 20 * wide + worst


def fitted_on(answers: Sequence[Answer]) -> list[Answer]:
    """The rows that fit: text of tier A and vision-language; p95 on all, slack where it counts."""
    return [
        one
        for one in answers
        if one.row.measured_bytes and (one.row.tier == "A" or not one.row.text)
    ]


def observations(answers: Sequence[Answer]) -> list[Observation]:
    """Measured steps; of the long table of llm-foundry every fourth."""
    timed = [one for one in answers if one.row.step_s]
    kept = [one for one in timed if one.row.source != "foundry" or _number(one) % 4 == 0]
    return [
        Observation(
            f"{one.row.source} {one.row.kind}",
            one.architecture,
            one.workload,
            one.layout,
            card_of(one.workload.gpu),
            one.row.step_s or 0.0,
        )
        for one in kept
    ]


def _number(one: Answer) -> int:
    return int(one.row.id.rsplit("-", 1)[1])


def main() -> None:
    """The command: ``memory``, ``time`` or both."""
    from benchmarks.accuracy.score import answers_of_all

    wanted = sys.argv[1:] or ["memory", "time"]
    table = json.loads(TABLE.read_text("utf-8")) if TABLE.exists() else {}
    answers = answers_of_all()[0]
    if "memory" in wanted:
        table["memory"] = _without_each(fitted_on(answers), fit)
    if "time" in wanted:
        timed = [one for one in answers if one.row.step_s]
        table["time"] = _without_each(timed, lambda some: fit_time(observations(some)))
    TABLE.write_text(json.dumps(table, indent=1) + "\n", "utf-8")


def _without_each(
    answers: Sequence[Answer], fitted: Callable[[Sequence[Answer]], Any]
) -> dict[str, dict[str, float]]:
    """One fit on all, and one without each family."""
    table = {"all": _fields(fitted(answers))}
    for family in sorted({one.row.family for one in answers}):
        table[family] = _fields(fitted([one for one in answers if one.row.family != family]))
    print(table["all"])
    return table


def _fields(constants: Any) -> dict[str, float]:  # noqa: ANN401
    names = constants.__dataclass_fields__
    return {name: round(float(getattr(constants, name)), 4) for name in names}


if __name__ == "__main__":
    main()
