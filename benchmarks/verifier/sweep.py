"""Measures the workloads of the sweep with the dry run, one after the other.

    python benchmarks/verifier/sweep.py [--limit N] [--csv FILE] [--largest FILE]

Rows that are in ``sweep.csv`` already are left out, so that an interrupted sweep goes on. Every
workload is measured in a process of its own, forked after the imports.
"""

import argparse
import csv
import hashlib
import json
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed
import peft
import torch
import transformers
from workloads import rows

from hpcjobs.login.verify_command import dry_run_request
from hpcjobs.train.dry_run.group import join_fake_group
from hpcjobs.train.dry_run.measure import measure
from hpcjobs.train.dry_run.request import read_request
from planner.read_workload import read_workload

HERE = Path(__file__).parent
CSV = HERE / "sweep.csv"
TIMEOUT_S = 400
PHASES = ("init", "forward", "backward", "step")
FIELDS = [
    "id", "model", "workload", "parameters", "trainable",
    *[f"{phase}_{what}_bytes" for phase in PHASES for what in ("current", "peak")],
    "peak_bytes", "peak_phase", "seconds", "rss_mib", "error", "versions",
]  # fmt: skip
VERSIONS = (
    f"torch {torch.__version__}, deepspeed {deepspeed.__version__}, "
    f"transformers {transformers.__version__}, peft {peft.__version__}"
)


def identity(workload: dict[str, Any]) -> str:
    """The row's id: the same workload is measured once."""
    return hashlib.sha256(json.dumps(workload, sort_keys=True).encode()).hexdigest()[:12]


def known(path: Path) -> set[str]:
    """Ids that are measured already."""
    if not path.exists():
        return set()
    with path.open(newline="") as file:
        return {row["id"] for row in csv.DictReader(file)}


def in_child(workload: dict[str, Any]) -> dict[str, Any]:
    """Measures in a forked process and reads its answer from a pipe."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        signal.alarm(TIMEOUT_S)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        with os.fdopen(writer, "w") as file:
            json.dump(answer_or_error(workload), file)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else {"error": f"no answer after {TIMEOUT_S} s"}


def answer_or_error(workload: dict[str, Any]) -> dict[str, Any]:
    """A workload that cannot be traced is a row with its reason: the sweep goes on."""
    try:
        request = read_request(dry_run_request(read_workload(workload)))
        join_fake_group(request.gpus)
        return measure(request, largest=16)
    except Exception as error:  # noqa: BLE001
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}


def as_row(name: str, workload: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """One line of the CSV file."""
    row: dict[str, Any] = {
        "id": identity(workload),
        "model": name,
        "workload": json.dumps(workload, sort_keys=True),
        "versions": VERSIONS,
        "error": answer.get("error", ""),
    }
    if row["error"]:
        return row
    for phase, figures in answer["phases"].items():
        row |= {f"{phase}_{key}": value for key, value in figures.items()}
    for key in ("parameters", "trainable", "peak_bytes", "peak_phase", "seconds"):
        row[key] = answer[key]
    return row | {"rss_mib": answer["rss_bytes"] >> 20}


def main() -> None:
    """Measures what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, help="measure at most so many")
    parser.add_argument("--csv", type=Path, default=CSV, help="the file; sweep.csv by default")
    parser.add_argument("--largest", type=Path, help="append the largest tensors as JSON lines")
    words = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    seen = known(words.csv)
    todo = [row for row in rows() if identity(row[1]) not in seen][: words.limit]
    is_new = not words.csv.exists()
    with words.csv.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if is_new:
            writer.writeheader()
        for number, (name, workload) in enumerate(todo, 1):
            answer = in_child(workload)
            row = as_row(name, workload, answer)
            writer.writerow(row)
            file.flush()
            if words.largest and not row["error"]:
                with words.largest.open("a") as lines:
                    lines.write(json.dumps({"id": row["id"], "model": name} | answer) + "\n")
            size = f"{row['peak_bytes'] / 2**30:.2f} GiB" if not row["error"] else row["error"]
            sys.stderr.write(f"{number}/{len(todo)} {name}: {size}\n")


if __name__ == "__main__":
    main()
