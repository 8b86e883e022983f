"""Times the planner: a search of 10,000 candidates, 1,000 lines of ``estimate``, a cold plan.

The search is timed inside one process, as the budget is of the search alone; the other two are
commands in fresh processes. The cold plan is set against Hydra's import and one bare composition,
in turn, so that what else the machine does hits both alike. The aims: 100 ms, 2 s, a ratio of 4.

    python benchmarks/planner_search.py [REPEATS]
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from hpcjobs.login.compose import compose_experiment
from hpcjobs.login.workload_of import workload_of
from planner.plan import Ask, CardOffer
from planner.search.search import search

CONF = Path(__file__).resolve().parents[1] / "conf"
BARE = f"""
import hydra
with hydra.initialize_config_dir({str(CONF)!r}, version_base="1.3"):
    hydra.compose("config", ["+experiment=mgm_lora"])
"""
PLAN = [sys.executable, "-m", "planner", "+experiment=mgm_lora"]
LINES = 1000
CARDS = ("RTX 4090", "L40S", "A100-SXM4-40GB", "A100-SXM4-80GB", "H100-SXM5")
MICRO_BATCHES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 16, 20, 24, 30)


def question() -> Ask:
    """MGM-2B with LoRA on five kinds of cards, up to 64 of each: every stage and offload."""
    _, experiment = compose_experiment(["+experiment=mgm_lora"])
    return Ask(
        workload=workload_of(experiment),
        global_batch=480,
        offers=tuple(CardOffer(card, 8, 64) for card in CARDS),
        micro_batches=MICRO_BATCHES,
    )


def lines() -> str:
    """Workloads of several models, lengths and stages, no two alike."""
    models = ("gemma-2b", "qwen2.5-7b", "llama-3-8b", "mgm-2b")
    found = []
    for i in range(LINES):
        workload = {
            "model": models[i % len(models)],
            "method": {"kind": "lora", "r": 8 + i % 57},
            "seq_len": 1024 + 2 * i,
            "sharding": f"zero{i % 4}",
            "gpus": 1 + i % 8,
            "micro_batch": 1 + i % 3,
            "samples": 100_000,
        }
        found.append(json.dumps(workload))
    return "\n".join(found)


def timed(action: Callable[[], object]) -> float:
    """Wall-clock seconds."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def main() -> None:
    """Prints medians and what they are to be as JSON."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    ask = question()
    candidates = search(ask).candidates
    seconds: dict[str, list[float]] = {"search": [], "estimate": [], "bare": [], "plan": []}
    with tempfile.TemporaryDirectory() as cwd:
        file = Path(cwd) / "lines.jsonl"
        file.write_text(lines())
        commands = {
            "estimate": [sys.executable, "-m", "planner", "estimate", str(file)],
            "bare": [sys.executable, "-c", BARE],
            "plan": PLAN,
        }

        def run(command: list[str]) -> None:
            subprocess.run(command, cwd=cwd, check=True, capture_output=True)

        for command in commands.values():
            run(command)  # once unmeasured: compiled files and the page cache
        for _ in range(repeats):
            seconds["search"].append(timed(lambda: search(ask)))
            for name, command in commands.items():
                seconds[name].append(timed(lambda command=command: run(command)))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    report = {
        "candidates": candidates,
        "search_ms": round(1000 * medians["search"], 1),
        "search_ms_per_10000": round(1e7 * medians["search"] / candidates, 1),
        "search_ms_best": round(1000 * min(seconds["search"]), 1),
        "search_aim_ms": 100,
        "estimate_lines": LINES,
        "estimate_s": round(medians["estimate"], 2),
        "estimate_aim_s": 2,
        "bare_compose_s": round(medians["bare"], 3),
        "cold_plan_s": round(medians["plan"], 3),
        "ratio": round(medians["plan"] / medians["bare"], 2),
        "ratio_aim": 4.0,
        "repeats": repeats,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
