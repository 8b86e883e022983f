"""Simulates 80 cards for 15 days with the broker's own retry rules; see docs/reliability.md.

python benchmarks/simulate_long_run.py                  # shows; --write replaces the report
python benchmarks/simulate_long_run.py --restart-in-place-s 40 --restart-requeue-s 90
"""

import argparse
import dataclasses
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.long_run.assumptions import Assumptions
from benchmarks.long_run.simulation import Account, simulate
from planner.interruptions import goodput, goodput_on_the_wall

REPORT = Path(__file__).resolve().parent / "long_run"
SEEDS = 1000
SMALL = 25
RATES = (6.5, 21.0)
AIM = 0.99
_NORMAL_95 = 1.96

VARIED: dict[str, tuple[float, float]] = {
    "failures_per_1000_node_days": (2.0, 21.0),
    "preemptions_per_day": (0.0, 4.0),
    "notice": (False, True),
    "node_share": (0.0, 1.0),
    "detect_s": (10.0, 600.0),
    "step_s": (1.0, 60.0),
    "save_s": (10.0, 300.0),
    "stall_share": (0.01, 1.0),
    "restart_in_place_s": (30.0, 600.0),
    "restart_requeue_s": (60.0, 900.0),
    "health_s": (0.5, 30.0),
    "queue_s": (60.0, 4 * 3600.0),
    "time_limit_days": (1.0, 15.0),
    "nodes": (2, 40),
}
"""What each assumption could as well be; the others stay."""


def figures(world: Assumptions, seeds: Iterable[int]) -> dict[str, Any]:
    """ETTR with its confidence interval over the seeds, where the time went, the closed form."""
    accounts = [simulate(world, seed) for seed in seeds]
    useful_s = world.training_days * 86_400.0
    interval_s = world.interval_s
    return {
        "seeds": len(accounts),
        "ettr_run": _interval([useful_s / account.allocated_s for account in accounts]),
        "ettr_wall": _interval([useful_s / account.wall_s for account in accounts]),
        "closed_form": {
            "ettr_run": _rounded(goodput(interval_s, world.losses)),
            "ettr_wall": _rounded(goodput_on_the_wall(interval_s, world.losses)),
        },
        "interval_s": round(interval_s, 1),
        "percent_of_training": _shares(accounts, useful_s),
        "ends_per_run": _counts(accounts),
    }


def results(world: Assumptions, seeds: int) -> dict[str, Any]:
    """Everything that the report says."""
    return {
        "assumptions": dataclasses.asdict(world),
        "by_rate": {
            str(rate): figures(_with(world, "failures_per_1000_node_days", rate), range(seeds))
            for rate in RATES
        },
        "sensitivity": sensitivity(world, seeds),
    }


def sensitivity(world: Assumptions, seeds: int) -> list[dict[str, Any]]:
    """One assumption at a time: points of ETTR between its ends, the largest first."""
    rows = []
    for name, ends in VARIED.items():
        found = [figures(_with(world, name, value), range(seeds)) for value in ends]
        run, wall = ([one[key]["mean"] for one in found] for key in ("ettr_run", "ettr_wall"))
        rows.append({
            "assumption": name, "assumed": getattr(world, name), "from": ends[0], "to": ends[1],
            "ettr_run": run, "ettr_wall": wall,
            "points_run": round(100 * abs(run[1] - run[0]), 2),
            "points_wall": round(100 * abs(wall[1] - wall[0]), 2),
        })  # fmt: skip
    return sorted(rows, key=lambda row: -float(row["points_run"]))


def page(found: dict[str, Any]) -> str:
    """The report as Markdown."""
    world = Assumptions(**found["assumptions"])
    cards = world.nodes * world.cards_per_node
    lines = [
        f"# {cards} cards for {world.training_days:g} days, simulated",
        "",
        (
            "Written by `python benchmarks/simulate_long_run.py --write`; what it means stands in "
            "[reliability](../../docs/reliability.md). The rules after each end are "
            "`hpcjobs/node/retry.py`, the interval between saves is `hpcjobs/train/interval.py`; "
            "the costs of saves and restarts are assumptions, listed below."
        ),
        "",
        (
            "| failures per 1,000 node-days | ETTR_run (95 % interval of the mean; 5th to 95th "
            "percentile of runs) | closed form | ETTR_wall | closed form | interruptions a run | "
            "stopped for a person |"
        ),
        "|---|---|---|---|---|---|---|",
        *(_rate_line(rate, one) for rate, one in found["by_rate"].items()),
        "",
        f"The aim of {100 * AIM:g} % ETTR_run with notices is "
        + ("met at both rates." if _meets(found) else "missed."),
        "",
        "## Where the time goes, in percent of the training",
        "",
        *_share_table(found["by_rate"]),
        "",
        "## Which assumption matters",
        "",
        (
            f"Each alone moved from one end to the other, at {world.failures_per_1000_node_days:g} "
            "failures per 1,000 node-days."
        ),
        "",
        "| assumption | assumed | from | to | ETTR_run | points | ETTR_wall | points |",
        "|---|---|---|---|---|---|---|---|",
        *(_sensitivity_line(row) for row in found["sensitivity"]),
        "",
        _dominating(found["sensitivity"]),
        "",
    ]
    return "\n".join(lines)


def _rate_line(rate: str, one: dict[str, Any]) -> str:
    run, wall, closed = one["ettr_run"], one["ettr_wall"], one["closed_form"]
    ends = one["ends_per_run"]
    count = sum(value for name, value in ends.items() if name not in ("done", "stopped"))
    return (
        f"| {rate} | {_percent(run['mean'])} ± {_percent(run['ci95'])} "
        f"({_percent(run['p5'])} to {_percent(run['p95'])}) | {_percent(closed['ettr_run'])} "
        f"| {_percent(wall['mean'])} ± {_percent(wall['ci95'])} | "
        f"{_percent(closed['ettr_wall'])} | {count:.1f} | {ends.get('stopped', 0):.3f} |"
    )


def _share_table(by_rate: dict[str, Any]) -> list[str]:
    names = sorted({name for one in by_rate.values() for name in one["percent_of_training"]})
    head = ["| | " + " | ".join(by_rate) + " |", "|---|" + "---|" * len(by_rate)]
    return head + [
        f"| {name.replace('_', ' ')} | "
        + " | ".join(f"{one['percent_of_training'].get(name, 0):.3f}" for one in by_rate.values())
        + " |"
        for name in names
    ]


def _sensitivity_line(row: dict[str, Any]) -> str:
    run, wall = (" to ".join(map(_percent, row[key])) for key in ("ettr_run", "ettr_wall"))
    values = " | ".join(_value(row[key]) for key in ("assumed", "from", "to"))
    return (
        f"| {row['assumption']} | {values} | {run} | {row['points_run']:.2f} | {wall} | "
        f"{row['points_wall']:.2f} |"
    )


def _dominating(rows: Sequence[dict[str, Any]]) -> str:
    wall = max(rows, key=lambda row: float(row["points_wall"]))
    return (
        f"ETTR_run hangs most on `{rows[0]['assumption']}` ({rows[0]['points_run']:.2f} points), "
        f"ETTR_wall on `{wall['assumption']}` ({wall['points_wall']:.2f} points)."
    )


def _meets(found: dict[str, Any]) -> bool:
    return all(one["ettr_run"]["mean"] >= AIM for one in found["by_rate"].values())


def _interval(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return {
        "mean": _rounded(statistics.fmean(values)),
        "ci95": _rounded(_NORMAL_95 * spread / math.sqrt(len(values))),
        "p5": _rounded(ordered[int(0.05 * (len(ordered) - 1))]),
        "p95": _rounded(ordered[math.ceil(0.95 * (len(ordered) - 1))]),
    }


def _shares(accounts: Sequence[Account], useful_s: float) -> dict[str, float]:
    names = {name for account in accounts for name in account.seconds} - {"training"}
    return {
        name: round(100 * statistics.fmean(a.seconds[name] for a in accounts) / useful_s, 4)
        for name in sorted(names)
    }


def _counts(accounts: Sequence[Account]) -> dict[str, float]:
    names = {name for account in accounts for name in account.ends}
    return {
        name: round(statistics.fmean(account.ends[name] for account in accounts), 4)
        for name in sorted(names)
    }


def _with(world: Assumptions, name: str, value: float) -> Assumptions:
    return dataclasses.replace(world, **{name: value})


def _rounded(value: float) -> float:
    return round(float(value), 6)


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _value(value: float) -> str:
    return ("no", "yes")[value] if isinstance(value, bool) else f"{value:g}"


def main() -> None:
    """Prints the report; --write commits it to files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="replace benchmarks/long_run/report.*")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    for name in ("restart_in_place_s", "restart_requeue_s", "save_s", "detect_s", "queue_s"):
        default = getattr(Assumptions(), name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=default)
    words = vars(parser.parse_args())
    write, seeds = words.pop("write"), words.pop("seeds")
    world = Assumptions(**words)
    found = {**results(world, seeds), "small": figures(world, range(SMALL))}
    print(page(found))
    if write:
        text = json.dumps(found, indent=2) + "\n"
        (REPORT / "report.json").write_text(text, encoding="utf-8")
        (REPORT / "report.md").write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
