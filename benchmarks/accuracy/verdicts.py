"""Does it fit: the planner's verdict beside what happened."""

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.accuracy.predictions import Answer


def verdicts(answers: Iterable[Answer]) -> dict[str, Any]:
    """Confusion matrix over the rows that ran, that ran out of memory and that are bounds."""
    kinds: dict[str, list[tuple[str, bool, bool]]] = {}
    for one in answers:
        for kind, truth, said in _asked(one):
            kinds.setdefault(kind, []).append((one.row.id, truth, said))
    every = [entry for entries in kinds.values() for entry in entries]
    hard = [*kinds.get("out of memory", []), *kinds.get("bound", [])]
    return {
        "rows": len(every),
        "right": _right(every),
        "hard_rows": len(hard),
        "hard_right": _right(hard),
        "matrix": _matrix(every),
        "by_kind": {
            kind: {"rows": len(entries), "right": _right(entries), "wrong": _wrong(entries)}
            for kind, entries in kinds.items()
        },
    }


def _asked(one: Answer) -> list[tuple[str, bool, bool]]:
    """What was asked of a row: kind, truth, the planner's word."""
    row = one.row
    if row.tier == "BOUND":
        return [("bound", row.fits, one.fits(one.left_out()))]
    if not row.fits:
        return [("out of memory", False, one.fits(one.left_out()))]
    kind = "ran, memory measured" if row.measured_bytes else "ran, time measured"
    return [(kind, True, one.fits(one.left_out()))]


def _right(entries: Sequence[tuple[str, bool, bool]]) -> float:
    if not entries:
        return 0.0
    return round(100 * sum(truth == said for _, truth, said in entries) / len(entries), 1)


def _wrong(entries: Sequence[tuple[str, bool, bool]]) -> list[str]:
    return [name for name, truth, said in entries if truth != said]


def _matrix(entries: Sequence[tuple[str, bool, bool]]) -> dict[str, int]:
    cells = {"fits": {"fits": 0, "does not": 0}, "does not": {"fits": 0, "does not": 0}}
    words = {True: "fits", False: "does not"}
    for _, truth, said in entries:
        cells[words[truth]][words[said]] += 1
    return {f"{truth} / said {said}": n for truth, row in cells.items() for said, n in row.items()}
