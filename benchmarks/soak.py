"""Kills one training on a real Slurm again and again, and looks at what comes out of it.

Measures what saves and restarts cost, spaces the kills so that the expected overhead stays below
a half, trains undisturbed, trains disturbed, and compares: bits, checkpoints, goodput.

    make soak                # 200 kills; about three hours on two idle cores
    python benchmarks/soak.py --kills 20 --seed 7 --out /tmp/soak
"""

import argparse
import dataclasses
import json
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from cluster.slurm_cluster import SlurmCluster
from runs import assert_equal_runs
from tiny import tiny_words, write_tiny_data

from benchmarks.soaking.account import (
    TARGET_OVERHEAD,
    Costs,
    expected_overhead,
    mean_gap_s,
    pure_step_s,
    repeated_steps,
    saving_share,
)
from benchmarks.soaking.conduct import Act, Training, start_training
from benchmarks.soaking.page import page
from benchmarks.soaking.plan import CLASS, WAYS, Kill, classes, plan_kills
from hpcjobs.run.layout import RunDir

REPORT = Path(__file__).resolve().parent / "soaking"
EVERY_STEPS = 20
COST_REPEATS = 3
COST_STEPS = 60
"""Steps before the first kill whose cost is measured, and between two."""
ENDLESS = 10_000_000
TIMEOUT_S = 900.0


def words(data: Path, run: RunDir, steps: int, **changes: object) -> list[str]:
    """A training on two nodes, small enough that restarts outweigh steps."""
    plan = {
        "cluster": "slurm", "cluster.partition": "low", "cluster.mem": "3G",
        "cluster.cpus_per_node": 1, "cluster.time": "1-0", "parallel.nodes": 2,
        "parallel.gpus_per_node": 1, "train.global_batch": 16, "train.steps": steps,
        "train.checkpoint.every_steps": EVERY_STEPS, "train.checkpoint.every_s": "null",
        "train.checkpoint.keep": 3, "run_dir": run.path,
    }  # fmt: skip
    return tiny_words(data, **{**plan, **changes})


def measure_costs(
    cluster: SlurmCluster, data: Path, run: RunDir, ways: Sequence[str], repeats: int
) -> Costs:
    """Saves and restarts, each by itself, in a run of its own that is then cancelled."""
    training = start_training(cluster, words(data, run, ENDLESS), run, TIMEOUT_S)
    training.wait_for(lambda: training.step >= 5 * EVERY_STEPS, "undisturbed steps")
    undisturbed = list(training.lines)
    kills = [
        Kill(number, way, "training", 1.0, 0.5, 0.0)
        for number, way in enumerate([way for way in ways for _ in range(repeats)])
    ]
    acts = training.carry_out(kills, COST_STEPS)
    cluster.cancel_all(60)
    step_s = pure_step_s(undisturbed, EVERY_STEPS)
    share = saving_share(undisturbed, EVERY_STEPS)
    return Costs(step_s, share, EVERY_STEPS * step_s, mean_down_s(acts))


def mean_down_s(acts: Sequence[Act]) -> dict[str, float]:
    """By class: from the kill to the first new step."""
    known = [act for act in acts if act.down_s is not None]
    kinds = sorted({act.kind for act in known})
    return {kind: fmean(a.down_s or 0.0 for a in known if a.kind == kind) for kind in kinds}


def goodput(training: Training, steps: int, costs: Costs, acts: Sequence[Act]) -> dict[str, float]:
    """What was measured against the formula's promise for the kills that there were."""
    lines = training.lines
    step_s = pure_step_s(lines, EVERY_STEPS)
    useful_s = steps * step_s
    allocated_s = lines[-1]["time"] - lines[0]["time"] + lines[0]["step_s"] - training.queued_s
    counts = Counter(act.kind for act in acts)
    overhead = expected_overhead(costs, counts, useful_s)
    measured, formula = useful_s / allocated_s, 1 / (1 + overhead)
    return {
        "step_s": step_s,
        "useful_s": useful_s,
        "allocated_s": allocated_s,
        "queued_s": training.queued_s,
        "expected_overhead": overhead,
        "measured": measured,
        "formula": formula,
        "points": 100 * (measured - formula),
        "repeated_steps": repeated_steps(lines),
    }


def total_steps(kills: Sequence[Kill], gap_steps: int) -> int:
    """Enough for all gaps, for the waits of those that want a save, and a little after the last."""
    gaps = round(gap_steps * (sum(kill.gap for kill in kills) + 1))
    saves = sum(kill.moment == "save" for kill in kills)
    return EVERY_STEPS * (gaps // EVERY_STEPS + saves + 2)


def soak(
    cluster: SlurmCluster,
    place: Path,
    kills: Sequence[Kill],
    seed: int,
    *,
    repeats: int = COST_REPEATS,
    gap_steps: int | None = None,
) -> dict[str, Any]:
    """Runs everything; returns what the report says.

    Args:
        cluster: running, with a partition ``low`` that is preempted for ``high``.
        place: where data and runs go.
        kills: planned.
        seed: that the plan was drawn from, for the report.
        repeats: of every kill whose cost is measured before.
        gap_steps: mean steps between kills; None measures the costs before and chooses.
    """
    data = write_tiny_data(place / "data")
    costs = None
    if gap_steps is None:
        ways = [way for way in WAYS if any(kill.way == way for kill in kills)]
        first = {CLASS[way]: way for way in reversed(ways)}
        costs = measure_costs(cluster, data, RunDir(place / "costs"), list(first.values()), repeats)
        gap_s = mean_gap_s(costs, classes(list(kills)), TARGET_OVERHEAD)
        gap_steps = round(gap_s / costs.step_s)
    steps = total_steps(kills, gap_steps)
    undisturbed = RunDir(place / "undisturbed")
    reference = start_training(cluster, words(data, undisturbed, steps), undisturbed, TIMEOUT_S)
    reference.timeout_s = max(TIMEOUT_S, 100.0 * steps)
    reference.wait_for(lambda: reference.done, "the undisturbed training")
    training = start_training(
        cluster, words(data, RunDir(place / "soak"), steps), RunDir(place / "soak"), TIMEOUT_S
    )
    acts = training.carry_out(kills, gap_steps)
    training.wait_for(lambda: training.done, "the end of the training")
    return {
        "seed": seed,
        "steps": steps,
        "every_steps": EVERY_STEPS,
        "gap_steps": gap_steps,
        "finished": training.done,
        "bit_equal": _bit_equal(undisturbed, training.run),
        "attempts": len(training.run.attempt_numbers()),
        "by_hand": training.by_hand,
        "rejected": [
            event["reason"] for event in training.events if event["kind"] == "checkpoint_rejected"
        ],
        "counts": dict(Counter(act.kind for act in acts)),
        "down_s": mean_down_s(acts),
        "costs_from": "measured before" if costs else "as they were in this very run",
        **_goodput_part(training, steps, costs, acts),
        "acts": [dataclasses.asdict(act) for act in acts],
        "machine": f"Slurm on one machine with {os.cpu_count()} cores, Python "
        f"{platform.python_version()}",
    }


def _goodput_part(
    training: Training, steps: int, costs: Costs | None, acts: Sequence[Act]
) -> dict[str, Any]:
    if costs is None:
        step_s = pure_step_s(training.lines, EVERY_STEPS)
        share = saving_share(training.lines, EVERY_STEPS)
        costs = Costs(step_s, share, EVERY_STEPS * step_s, mean_down_s(acts))
    return {
        "costs": dataclasses.asdict(costs),
        "goodput": goodput(training, steps, costs, acts),
    }


def _bit_equal(one: RunDir, other: RunDir) -> bool:
    try:
        assert_equal_runs(one, other)
    except AssertionError as error:
        sys.stderr.write(f"not equal: {error}\n")
        return False
    return True


def failures(found: dict[str, Any], wanted: int) -> list[str]:
    """What the soak must not show, in words."""
    points = abs(found["goodput"]["points"])
    wrong = {
        "the training did not finish": not found["finished"],
        "it is not bit-equal to the undisturbed one": not found["bit_equal"],
        "checkpoints were rejected": bool(found["rejected"]),
        f"only {len(found['acts'])} of {wanted} kills were carried out": len(found["acts"])
        < wanted,
        f"goodput is {points:.1f} points from the formula, at most 5 are allowed": points > 5,
        "the expected overhead is above 0.5": found["goodput"]["expected_overhead"] > 0.5,
    }
    return [words for words, is_so in wrong.items() if is_so]


def main() -> int:
    """Soaks and writes the report; 1 where a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=REPORT, help="directory of report.md and .json")
    parser.add_argument("--keep", type=Path, help="an empty directory for data and runs, kept")
    options = parser.parse_args()
    place = options.keep or Path(tempfile.mkdtemp(prefix="hpcjobs-soak-"))
    os.environ["XDG_STATE_HOME"] = str(place / "state")  # nodes of the soak are bad for it alone
    kills, began = plan_kills(options.kills, options.seed), time.monotonic()
    with SlurmCluster.running(nnodes=4, cpus=4, gpus=0, grace=20) as cluster:
        found = soak(cluster, place, kills, options.seed)
    found["command"] = f"python benchmarks/soak.py --kills {options.kills} --seed {options.seed}"
    found["minutes"] = round((time.monotonic() - began) / 60, 1)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "report.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    (options.out / "report.md").write_text(page(found), encoding="utf-8")
    wrong = failures(found, len(kills))
    print("\n".join(page(found).splitlines()[:30]))
    print(f"runs: {place}")
    for line in wrong:
        sys.stderr.write(f"FAILED: {line}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
