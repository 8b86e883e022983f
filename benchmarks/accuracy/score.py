"""Scores the planner on published measurements: ``python benchmarks/accuracy/score.py``.

Prints the tables of docs/accuracy.md. ``--json`` prints the figures as JSON, ``--write`` renews
the page's generated part, ``--charts`` draws its charts (matplotlib), ``--rows SOURCE`` shows
every row of a source with its components.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.accuracy import memory_scores as memory
from benchmarks.accuracy.page import tables, write_page
from benchmarks.accuracy.predictions import Answer, answer
from benchmarks.accuracy.rows import mapped
from benchmarks.accuracy.time_scores import calibrated, time_summary
from benchmarks.accuracy.verdicts import verdicts
from planner.memory.overhead import CONSTANTS


def results(answers: list[Answer], reasons: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    """Every figure of the page."""
    text, vision, second = headline(answers)
    both = [*text, *vision]
    return {
        "memory": {
            "text A": memory.summary(text),
            "vision-language A and B": memory.summary(vision),
            "text B": memory.summary(second),
        },
        "shipped": {
            name: round(memory.macro_mape(scores), 2)
            for name, scores in zip(
                ("text A", "vision-language A and B", "text B"),
                headline(answers, lambda _: CONSTANTS),
                strict=True,
            )
        },
        "p95": memory.coverage(both),
        "worst": memory.worst([*both, *second]),
        "competitors": memory.competitors(answers, both),
        "verdict": verdicts(answers),
        "time": time_summary(answers),
        "time after three runs": calibrated(answers),
        "counted": len(answers),
        "not counted": {reason: list(ids) for reason, ids in reasons.items()},
    }


def headline(
    answers: list[Answer], chosen: memory.Chosen = Answer.left_out
) -> tuple[list[memory.Score], list[memory.Score], list[memory.Score]]:
    """Scores of text rows of tier A, of vision-language rows, and of text rows of tier B.

    Constants come from the other families.
    """
    first = [one for one in answers if one.row.text and one.row.tier == "A"]
    second = [one for one in answers if one.row.text and one.row.tier == "B"]
    vision = [one for one in answers if not one.row.text]
    return (
        memory.scores_of(first, chosen),
        memory.scores_of(vision, chosen),
        memory.scores_of(second, chosen),
    )


def answers_of_all() -> tuple[list[Answer], dict[str, tuple[str, ...]]]:
    """The planner asked about every row that counts."""
    rows, reasons = mapped()
    return [answer(row) for row in rows], reasons


def show(answers: list[Answer], source: str) -> None:
    """Every row of a source: measured, predicted, components in GiB."""
    gib = 1 << 30
    for one in answers:
        if one.row.source != source or not one.row.measured_bytes:
            continue
        metric = one.workload.memory_metric
        parts = {name: float(value) / gib for name, value in one.allocated.components.items()}
        words = " ".join(f"{name} {value:.2f}" for name, value in parts.items() if value > 0.005)
        p50, measured = one.p50(metric, one.left_out()) / gib, one.row.measured_bytes / gib
        print(
            f"{one.row.id} {measured:7.2f} {p50:7.2f} {100 * (p50 / measured - 1):+6.1f} %"
            f"  allocated {float(one.allocated.peak_bytes) / gib:.2f}: {words}"
        )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--write", action="store_true", help="renew docs/accuracy.md")
    parser.add_argument("--charts", action="store_true", help="draw docs/images/accuracy-*.svg")
    parser.add_argument("--rows", metavar="SOURCE", help="show every row of a source")
    options = parser.parse_args()
    answers, reasons = answers_of_all()
    if options.rows:
        show(answers, options.rows)
        return
    found = results(answers, reasons)
    print(json.dumps(found, indent=1) if options.json else tables(found))
    if options.write:
        write_page(found)
    if options.charts:
        from benchmarks.accuracy.charts import draw

        text, vision, second = headline(answers)
        draw(text, vision, second, found)


if __name__ == "__main__":
    main()
