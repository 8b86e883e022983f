"""How far the planner's memory is from what was measured."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from benchmarks.accuracy.predictions import Answer
from planner.memory.overhead import Constants

Chosen = Callable[[Answer], Constants]


@dataclass(frozen=True, slots=True)
class Score:
    """One measured row beside its prediction, in bytes."""

    id: str
    source: str
    family: str
    metric: str
    measured: float
    p50: float
    p95: float

    @property
    def error(self) -> float:
        """Relative error of the median."""
        return self.p50 / self.measured - 1.0

    @property
    def excess(self) -> float:
        """How far the measurement lies above p95, relatively; negative below it."""
        return self.measured / self.p95 - 1.0


def scores_of(answers: Iterable[Answer], chosen: Chosen) -> list[Score]:
    """Scores of the rows with measured memory, each with the constants chosen for it."""
    return [_score(answer, chosen(answer)) for answer in answers if answer.row.measured_bytes]


def _score(answer: Answer, constants: Constants) -> Score:
    metric = answer.workload.memory_metric
    return Score(
        id=answer.row.id,
        source=answer.row.source,
        family=answer.row.family,
        metric=metric,
        measured=answer.row.measured_bytes or 0.0,
        p50=answer.p50(metric, constants),
        p95=answer.p95(metric, constants),
    )


def by(scores: Iterable[Score], field: str) -> dict[str, list[Score]]:
    """Scores by the value of one of their fields, in the order of the table."""
    groups: dict[str, list[Score]] = {}
    for score in scores:
        groups.setdefault(getattr(score, field), []).append(score)
    return groups


def mape(scores: Sequence[Score]) -> float:
    """Mean absolute relative error in percent."""
    return 100 * fmean(abs(score.error) for score in scores)


def bias(scores: Sequence[Score]) -> float:
    """Mean relative error in percent."""
    return 100 * fmean(score.error for score in scores)


def macro_mape(scores: Sequence[Score]) -> float:
    """The mean over sources of their own mean absolute relative errors, in percent."""
    return fmean(mape(group) for group in by(scores, "source").values())


def summary(scores: Sequence[Score]) -> dict[str, Any]:
    """Figures of one set of rows, and of its sources."""
    return {
        "rows": len(scores),
        "macro_mape": round(macro_mape(scores), 2),
        "mape": round(mape(scores), 2),
        "bias": round(bias(scores), 2),
        "by_source": {name: _group(group) for name, group in by(scores, "source").items()},
        "by_metric": {name: _group(group) for name, group in by(scores, "metric").items()},
        "by_family": {name: _group(group) for name, group in by(scores, "family").items()},
    }


def _group(scores: Sequence[Score]) -> dict[str, Any]:
    errors = [100 * score.error for score in scores]
    return {
        "rows": len(scores),
        "mape": round(mape(scores), 2),
        "macro_mape": round(macro_mape(scores), 2),
        "bias": round(bias(scores), 2),
        "least": round(min(errors), 1),
        "most": round(max(errors), 1),
        "below_p95": round(100 * fmean(score.excess <= 0 for score in scores), 1),
    }


def coverage(scores: Sequence[Score]) -> dict[str, Any]:
    """What p95 is worth: share of rows below it, its width, the worst excess."""
    worst = max(scores, key=lambda score: score.excess)
    return {
        "rows": len(scores),
        "below_p95": round(100 * fmean(score.excess <= 0 for score in scores), 1),
        "median_p95_over_p50": round(median(score.p95 / score.p50 for score in scores), 3),
        "worst_excess": round(100 * worst.excess, 1),
        "worst_id": worst.id,
        "above_p95": [
            [score.id, round(100 * score.excess, 1)]
            for score in sorted(scores, key=lambda score: -score.excess)
            if score.excess > 0
        ],
    }


def worst(scores: Sequence[Score], count: int = 12) -> list[list[Any]]:
    """The rows with the largest errors."""
    ordered = sorted(scores, key=lambda score: -abs(score.error))[:count]
    return [
        [score.id, score.source, score.metric, *_gib(score), round(100 * score.error, 1)]
        for score in ordered
    ]


def _gib(score: Score) -> tuple[float, float]:
    return round(score.measured / (1 << 30), 2), round(score.p50 / (1 << 30), 2)


def competitors(answers: Sequence[Answer], scores: Sequence[Score]) -> dict[str, Any]:
    """The published formulas on the same rows; a formula without an answer leaves rows out."""
    errors: dict[str, dict[str, list[float]]] = {}
    measured = {score.id: score for score in scores}
    for answer in answers:
        score = measured.get(answer.row.id)
        if score is None:
            continue
        errors.setdefault("this planner", {}).setdefault(score.source, []).append(score.error)
        for name, value in answer.competitors().items():
            found = errors.setdefault(name, {})
            if value is not None:
                found.setdefault(score.source, []).append(value / score.measured - 1.0)
    return {name: _competitor(found) for name, found in errors.items()}


def _competitor(by_source: dict[str, list[float]]) -> dict[str, Any]:
    every = [error for errors in by_source.values() for error in errors]
    macro = fmean(fmean(abs(error) for error in errors) for errors in by_source.values())
    return {
        "rows": len(every),
        "macro_mape": round(100 * macro, 1),
        "least": round(100 * min(every)),
        "most": round(100 * max(every)),
    }
