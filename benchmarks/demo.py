"""Times the demo against its aim of five minutes, and the trainer's steps against bare torch.

The bare loop trains the same model on the same micro batches without DeepSpeed, checkpoints and
metrics, in one process after the other has ended; the ratio says what the trainer adds.

    python benchmarks/demo.py
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from hpcjobs.data.dataset import MgmDataset, collate
from hpcjobs.data.llava_json import read_samples
from hpcjobs.data.template import load_tokenizer
from hpcjobs.run.experiment import Experiment
from hpcjobs.run.files import read_json, read_lines
from hpcjobs.run.schema import build
from hpcjobs.train.method import apply_method
from hpcjobs.train.mgm.model import build_model

BARE_STEPS = 40


def demo(cwd: Path) -> tuple[float, Path]:
    """Runs the demo on one process and returns its seconds and run directory."""
    run = cwd / "run"
    words = ["+experiment=mgm_lora_demo", "cluster=local", "parallel.gpus_per_node=1"]
    words += ["parallel.micro_batch=16"]
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "hpcjobs.submit", *words, f"run_dir={run}"],
        cwd=cwd, check=True, capture_output=True,
    )  # fmt: skip
    return time.perf_counter() - started, run


def bare_step_s(run: Path) -> float:
    """Median seconds of a step of a plain loop on the same model and batch size."""
    experiment = build(Experiment, read_json(run / "config.json"))
    root, model_dims = Path(experiment.data.root), experiment.model
    samples, _ = read_samples(root / "train.json")
    items = MgmDataset(
        samples, load_tokenizer(root / "tokenizer.json"), root, model_dims.picture_tokens,
        model_dims.aux.picture_px, model_dims.max_length,
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_num_threads(experiment.cluster.cpus_per_node)
    model = apply_method(build_model(model_dims), experiment.method)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    seconds, size = [], experiment.train.global_batch
    for step in range(BARE_STEPS):
        started = time.perf_counter()
        chosen = [items[(step * size + i) % len(items)] for i in range(size)]
        batch = collate(chosen, 0, model_dims.aux.picture_px)
        (model(**batch) / (batch["labels_BL"] != -100).sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def main() -> None:
    """Prints the figures as JSON."""
    with tempfile.TemporaryDirectory() as name:
        demo_s, run = demo(Path(name))
        ours = statistics.median(
            line["step_s"] for line in read_lines(run / "metrics.jsonl") if line["kind"] == "train"
        )
        bare = bare_step_s(run)
    figures = {
        "demo_one_process_s": round(demo_s, 1),
        "demo_aim_s": 300,
        "step_s": round(ours, 4),
        "bare_torch_step_s": round(bare, 4),
        "ratio": round(ours / bare, 2),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
