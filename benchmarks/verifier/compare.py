"""Compares the closed form's peak of live tensors with the sweep's measurements.

    python benchmarks/verifier/compare.py [--worst N] [--write]

``--write`` puts the tables into README.md beside this file.
"""

import argparse
import csv
import json
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from planner.architecture import Architecture
from planner.layout import layout_of
from planner.memory.closed_form import allocated_of
from planner.models.read import architecture_of
from planner.read_workload import read_workload

HERE = Path(__file__).parent
CSV = HERE / "sweep.csv"
README = HERE / "README.md"
BEGIN, END = "<!-- tables -->", "<!-- end of tables -->"


@dataclass(frozen=True, slots=True)
class Compared:
    """One row of the sweep beside the closed form."""

    id: str
    model: str
    workload: dict[str, Any]
    measured_bytes: int
    measured_phase: str
    computed_bytes: float
    computed_phase: str

    @property
    def error(self) -> float:
        """Computed over measured, less one."""
        return self.computed_bytes / self.measured_bytes - 1.0


def compared(path: Path = CSV) -> list[Compared]:
    """Every row that was measured, beside the closed form."""
    with path.open(newline="") as file:
        return [_compare(row) for row in csv.DictReader(file) if not row["error"]]


def table(rows: Iterable[Compared], title: str, key: Callable[[Compared], str]) -> str:
    """Mean and worst absolute error by a key, as Markdown."""
    groups: dict[str, list[Compared]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    lines = [f"| {title} | rows | mean error | worst | bias |", "|---|---|---|---|---|"]
    for name, members in sorted(groups.items()):
        lines.append(f"| {name} | {len(members)} | {_figures(members)} |")
    return "\n".join(lines)


def tables(rows: list[Compared]) -> str:
    """All tables, with the sum of everything first."""
    keys: dict[str, Callable[[Compared], str]] = {
        "all": lambda _: "all rows",
        "model": lambda row: row.model,
        "method": _method,
        "sharding": lambda row: row.workload["sharding"],
        "checkpointing": lambda row: "on" if row.workload.get("grad_ckpt", True) else "off",
        "attention": lambda row: row.workload["attention"],
        "tokens a sample": lambda row: f"{row.workload['seq_len']:5}",
        "measured peak in": lambda row: row.measured_phase,
    }
    return "\n\n".join(table(rows, title, key) for title, key in keys.items())


def _compare(row: dict[str, str]) -> Compared:
    raw = json.loads(row["workload"])
    workload = read_workload(raw)
    architecture = _architecture(json.dumps(raw["model"]))
    found = allocated_of(architecture, workload, layout_of(workload), kernels="cpu")
    return Compared(
        id=row["id"],
        model=row["model"],
        workload=raw,
        measured_bytes=int(row["peak_bytes"]),
        measured_phase=row["peak_phase"],
        computed_bytes=float(found.peak_bytes),
        computed_phase=max(found.phases, key=lambda name: float(found.phases[name])),
    )


@lru_cache(maxsize=128)
def _architecture(text: str) -> Architecture:
    return architecture_of(json.loads(text))


def _method(row: Compared) -> str:
    method = row.workload["method"]
    kind = method if isinstance(method, str) else method["kind"]
    has_dropout = isinstance(method, dict) and method.get("dropout", 0) > 0
    return f"{kind} with dropout" if has_dropout else str(kind)


def _figures(rows: list[Compared]) -> str:
    errors = [row.error for row in rows]
    worst = max(errors, key=abs)
    mean = statistics.fmean(map(abs, errors))
    return f"{100 * mean:.2f} % | {100 * worst:+.2f} % | {100 * statistics.fmean(errors):+.2f} %"


def _words(row: Compared) -> str:
    words = {key: value for key, value in row.workload.items() if key not in ("model", "attention")}
    return json.dumps(words, sort_keys=True)


def main() -> None:
    """Prints the tables and the rows that deviate most."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worst", type=int, default=15, help="rows to name")
    parser.add_argument("--write", action="store_true", help="put the tables into README.md")
    words = parser.parse_args()
    rows = compared()
    text = tables(rows)
    print(text)
    print(f"\nThe {words.worst} rows that deviate most:\n")
    for row in sorted(rows, key=lambda row: -abs(row.error))[: words.worst]:
        gib = f"{row.measured_bytes / 2**30:.2f} GiB {row.measured_phase}"
        print(f"{100 * row.error:+6.2f} % {row.id} {row.model} {gib} -> {row.computed_phase} "
              f"{row.workload['attention']} {_words(row)}")  # fmt: skip
    if words.write:
        before, _, rest = README.read_text("utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        README.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
