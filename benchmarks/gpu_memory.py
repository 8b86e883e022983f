"""Measures MGM-2B on a real GPU: peak allocated, reserved and process memory, and step times.

    python benchmarks/gpu_memory.py [--limit N]
    python benchmarks/gpu_memory.py --score
    python benchmarks/gpu_memory.py --device cpu --model tiny --csv /tmp/tiny.csv --limit 2

Weights are random. One card is rank 0 of N under a process group whose collectives do nothing,
so that N's shards are held and no time goes into communication. Rows that are in the CSV file
already are left out; a case that runs out of memory is a row too.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from gpu.meters import Meter
    from torch import Tensor, nn

    from hpcjobs.train.dry_run.batch import Batch
    from hpcjobs.train.dry_run.engines import Engine
    from hpcjobs.train.dry_run.request import Request

ModelWords: TypeAlias = "str | dict[str, Any]"
"""A preset's name, or dimensions."""

HERE = Path(__file__).parent
CSV = HERE / "gpu" / "mgm_2b.csv"
WARM_STEPS, TIMED_STEPS = 2, 5
TIMEOUT_S = 900
EXIT_NO_CUDA = 2
PHASES = ("init", "forward", "backward", "step")
FIELDS = [
    "id", "workload", "gpu", "gpu_bytes", "outcome", "parameters", "trainable",
    *[f"{phase}_peak_bytes" for phase in PHASES],
    "allocated_bytes", "reserved_bytes", "process_bytes", "step_s", "step_s_all", "versions",
]  # fmt: skip

TINY = {
    "model_type": "mgm",
    "text": {
        "hidden": 64, "layers": 2, "heads": 4, "kv_heads": 1, "head_dim": 16,
        "intermediate": 128, "vocab": 640, "max_positions": 8192,
    },
    "vision": {
        "hidden": 64, "layers": 3, "heads": 4, "intermediate": 128, "picture_px": 56,
        "patch_px": 14,
    },
    "aux": {"widths": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "picture_px": 64},
}  # fmt: skip


def cases(model: ModelWords) -> Iterator[dict[str, Any]]:
    """The grid: lengths x micro batches x checkpointing at ZeRO-2, then the other stages."""
    for length, micro in ((704, 1), (1024, 1), (2048, 1), (4096, 1), (704, 4), (2048, 4)):
        for checkpointed in (True, False):
            yield _case(model, length, micro, checkpointed, "zero2", "lora")
    for length, micro in ((704, 16), (1024, 8), (2048, 8), (4096, 4)):
        yield _case(model, length, micro, True, "zero2", "lora")
    for sharding in ("zero0", "zero1", "zero3"):
        for length, micro, checkpointed in ((2048, 1, True), (2048, 4, True), (1024, 2, False)):
            yield _case(model, length, micro, checkpointed, sharding, "lora")
    for sharding in ("zero2", "zero3"):
        yield _case(model, 1024, 1, True, sharding, "full")
    yield _case(model, 1024, 4, True, "zero2", "projector")


def _case(
    model: ModelWords, length: int, micro: int, checkpointed: bool, sharding: str, method: str
) -> dict[str, Any]:
    return {
        "model": model,
        "method": {"kind": method, **({"dropout": 0.1} if method == "lora" else {})},
        "seq_len": length,
        "micro_batch": micro,
        "grad_ckpt": checkpointed,
        "attention": "sdpa",
        "sharding": sharding,
        "gpus": 8,
        "reduce_bucket": 2048 * 2048,
    }


def identity(workload: dict[str, Any]) -> str:
    """The row's id."""
    return hashlib.sha256(json.dumps(workload, sort_keys=True).encode()).hexdigest()[:12]


def measure_case(workload: dict[str, Any], device: str) -> dict[str, Any]:
    """Runs one case in this process, which must be a fresh one."""
    os.environ["DS_ACCELERATOR"] = device
    import torch
    from gpu.meters import CpuMeter, CudaMeter

    from hpcjobs.login.verify_command import dry_run_request
    from hpcjobs.train.dry_run.fake import without_peers
    from hpcjobs.train.dry_run.group import join_fake_group
    from hpcjobs.train.dry_run.mgm_model import build_mgm_model
    from hpcjobs.train.dry_run.request import read_request
    from planner.read_workload import read_workload

    torch.set_num_threads(1)
    request = read_request(dry_run_request(read_workload(workload)))
    join_fake_group(request.gpus, device)
    meter = CudaMeter() if device == "cuda" else CpuMeter()
    model = build_mgm_model(request, torch.bfloat16)
    with without_peers():
        return {"versions": _versions(), **_run(model.train(), request, meter, device)}


def _run(model: nn.Module, request: Request, meter: Meter, device: str) -> dict[str, Any]:
    import torch

    from hpcjobs.train.dry_run.batch import mgm_batch
    from hpcjobs.train.dry_run.engines import build_engine
    from hpcjobs.train.dry_run.fake import materialise

    def drawn(tensor: Tensor) -> Tensor:
        values = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        return values.normal_(0, 0.02) if tensor.is_floating_point() else values.zero_()

    materialise(model, drawn)
    counts = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
    meter.begin()
    engine = build_engine(model, request)
    peaks = {"init": meter.peak_bytes()}
    meter.forget_init()
    batch = {name: value.to(device) for name, value in mgm_batch(request, torch.bfloat16).items()}
    seconds = [_step(engine, batch, meter, peaks) for _ in range(WARM_STEPS + TIMED_STEPS)]
    timed = seconds[WARM_STEPS:]
    return {
        **counts,
        **{f"{phase}_peak_bytes": peak for phase, peak in peaks.items()},
        "allocated_bytes": max(peak for phase, peak in peaks.items() if phase != "init"),
        **meter.totals(),
        "step_s": round(statistics.median(timed), 5),
        "step_s_all": json.dumps([round(value, 5) for value in timed]),
        "outcome": "ok",
    }


def _step(engine: Engine, batch: Batch, meter: Meter, peaks: dict[str, int]) -> float:
    """One step; every phase's peak is kept where it is the highest so far."""
    started = meter.now()
    for phase in PHASES[1:]:
        meter.begin()
        if phase == "forward":
            loss = engine.forward(batch)
        elif phase == "backward":
            engine.backward(loss / batch["labels_BL"].numel())
            del loss
        else:
            engine.step(is_last=True)
        peaks[phase] = max(peaks.get(phase, 0), meter.peak_bytes())
    return float(meter.now() - started)


def _versions() -> str:
    import deepspeed
    import torch
    import transformers

    return (
        f"torch {torch.__version__}, deepspeed {deepspeed.__version__}, "
        f"transformers {transformers.__version__}"
    )


def in_child(workload: dict[str, Any], device: str) -> dict[str, Any]:
    """Measures in a fresh process: an allocator that has run once is not the same again."""
    command = [sys.executable, str(Path(__file__)), "--device", device, "--case", "-"]
    try:
        done = subprocess.run(
            command, input=json.dumps(workload), capture_output=True, text=True,
            check=False, timeout=TIMEOUT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"outcome": f"no answer in {TIMEOUT_S} s"}
    answers = [line for line in done.stdout.splitlines() if line.startswith('{"')]
    if done.returncode == 0 and answers:
        return dict(json.loads(answers[-1]))
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return {"outcome": "oom" if "OutOfMemoryError" in done.stderr else f"failed: {last[:200]}"}


def run(words: argparse.Namespace) -> None:
    """Measures what is missing, a row at a time."""
    model: ModelWords = TINY if words.model == "tiny" else words.model
    words.csv.parent.mkdir(parents=True, exist_ok=True)
    seen = {row["id"] for row in _rows(words.csv)}
    todo = [case for case in cases(model) if identity(case) not in seen][: words.limit]
    is_new = not words.csv.exists()
    with words.csv.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, restval="")
        if is_new:
            writer.writeheader()
        for case in todo:
            answer = in_child(case, words.device)
            row = {"id": identity(case), "workload": json.dumps(case, sort_keys=True), **answer}
            writer.writerow({name: row.get(name, "") for name in FIELDS})
            file.flush()
            size = row.get("allocated_bytes")
            text = f"{size / 2**30:.2f} GiB, {row['step_s']} s" if size else row["outcome"]
            print(f"{case['sharding']} {case['seq_len']} x {case['micro_batch']}: {text}")


def score(path: Path) -> None:
    """Compares the rows with the planner's predictions, by memory metric."""
    from planner.layout import layout_of
    from planner.memory.peak import memory_of
    from planner.models.read import architecture_of
    from planner.read_workload import read_workload

    measured = [row for row in _rows(path) if row["outcome"] == "ok"]
    if not measured:
        print(f"{path} holds no measurement yet: run this script on a machine with a GPU")
        return
    for metric in ("allocated", "reserved", "process"):
        errors = []
        for row in measured:
            if not row[f"{metric}_bytes"]:
                continue
            workload = read_workload({**json.loads(row["workload"]), "memory_metric": metric})
            memory = memory_of(architecture_of(workload.model), workload, layout_of(workload))
            errors.append(float(memory.peak_p50_bytes) / float(row[f"{metric}_bytes"]) - 1.0)
        if errors:
            worst = max(errors, key=abs)
            mean = statistics.fmean(map(abs, errors))
            print(
                f"{metric}: {len(errors)} rows, mean {100 * mean:.1f} %, worst {100 * worst:+.1f} %"
            )


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--model", choices=["mgm-2b", "tiny"], default="mgm-2b")
    parser.add_argument("--csv", type=Path, default=CSV)
    parser.add_argument("--limit", type=int, help="measure at most so many cases")
    parser.add_argument("--score", action="store_true", help="compare the rows with the planner")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Measures, scores, or runs one case for its parent."""
    words = _parse()
    if words.score:
        score(words.csv)
        return 0
    if words.case:
        print(json.dumps(measure_case(json.load(sys.stdin), words.device)), flush=True)
        os._exit(0)
    if words.device == "cuda" and not _sees_cuda():
        sys.stderr.write(
            "error: torch sees no GPU here: run this on a machine with one, or try it out with "
            "--device cpu --model tiny\n"
        )
        return EXIT_NO_CUDA
    if words.device == "cpu" and words.csv == CSV:
        sys.stderr.write("error: figures of a CPU do not belong into that file: write --csv FILE\n")
        return EXIT_NO_CUDA
    run(words)
    return 0


def _sees_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())


if __name__ == "__main__":
    sys.exit(main())
