"""How long a training stands still for a save in the background, and for a blocking one.

    python benchmarks/async_save.py [--trained-millions 50] [--saves 4] [--directory DIR]

One process trains a model of that many parameters with DeepSpeed ZeRO-2 in the real loop, on the
CPU or the card that torch sees, and saves with fsync. Blocking and background saves alternate in
the same process, so that both see the same machine. Steps are made as long as a step of a real
training by sleeping, as a card's would be for the CPU; ``--busy`` computes instead, so that the
background work competes for the same cores.
"""

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("RANK", "0")
os.environ.setdefault("LOCAL_RANK", "0")
os.environ.setdefault("WORLD_SIZE", "1")
os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
os.environ.setdefault("MASTER_PORT", "29511")

import torch
from torch import nn

from hpcjobs.run.experiment import Parallel
from hpcjobs.run.fence import open_fence
from hpcjobs.run.layout import RunDir
from hpcjobs.train.checkpoint import Progress
from hpcjobs.train.process import leave, start_process
from hpcjobs.train.saver import Saved, Saver

_MIB = 1 << 20


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trained-millions", type=int, default=50)
    parser.add_argument("--saves", type=int, default=4, help="of each kind")
    parser.add_argument("--step-s", type=float, default=0.2)
    parser.add_argument("--busy", action="store_true", help="compute in a step, not sleep")
    parser.add_argument("--directory", type=Path, help="on the disk to measure")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=words.directory) as place:
        measure(words, RunDir(Path(place) / "run"))
    leave(0)


def measure(words: argparse.Namespace, run: RunDir) -> None:
    """Alternates the two kinds of saves; the first of each only warms up."""
    import deepspeed

    process = start_process(Parallel(zero_stage=2, device="auto"))
    model = nn.Linear(1000, words.trained_millions * 1000, bias=False)
    optimizer = torch.optim.AdamW(model.parameters())
    zero = {"stage": 2, "reduce_bucket_size": 500_000_000}
    config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": zero,
              "zero_allow_untested_optimizer": True, "bf16": {"enabled": True}}  # fmt: skip
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    batch = torch.ones(1, 1000, dtype=torch.bfloat16, device=process.device)
    engine.backward(engine(batch).float().square().mean())
    engine.step()
    open_fence(run, 1)
    saver = Saver(engine, run.checkpoints, 1, process, keep=1)
    blocking: list[Saved] = []
    background: list[Saved] = []
    progress = Progress()
    for _ in range(words.saves + 1):
        for kind in (blocking, background):
            progress = replace(progress, step=progress.step + 1)
            saver.begin(progress)
            kind.append(wait(saver) if kind is blocking else train_on(saver, words))
    size_mib = sum(f.stat().st_size for f in run.checkpoints.glob("step-*/*")) / _MIB
    report(size_mib, blocking[1:], background[1:], process.device.type)


def wait(saver: Saver) -> Saved:
    """A blocking save."""
    saved = saver.finish()
    if saved is None:
        raise RuntimeError("no save was in flight")
    return saved


def train_on(saver: Saver, words: argparse.Namespace) -> Saved:
    """Goes on with steps until the save is committed, as the loop does."""
    saved = None
    while saved is None:
        step(words.step_s, words.busy)
        if saver.failed or not saver.working:
            saved = saver.advance()
    return saved


def step(seconds: float, busy: bool) -> None:
    """The time of a step."""
    if not busy:
        time.sleep(seconds)
        return
    deadline = time.monotonic() + seconds
    a = torch.ones(300, 300)
    while time.monotonic() < deadline:
        a = (a @ a).clamp(0, 1)


def report(size_mib: float, blocking: list[Saved], background: list[Saved], device: str) -> None:
    """Medians and their ratio."""
    stalls = [statistics.median(s.stall_s for s in kind) for kind in (blocking, background)]
    whole_s = statistics.median(s.save_s for s in background)
    print(f"checkpoint of {size_mib:.0f} MiB, {device}, medians of {len(blocking)} saves each")
    print(f"  blocking    the training stands still for {stalls[0]:.3f} s")
    print(f"  background  it stands still for {stalls[1]:.3f} s, committed after {whole_s:.3f} s")
    print(f"  ratio       {100 * stalls[1] / stalls[0]:.1f} %")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
