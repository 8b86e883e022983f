"""The training loop: micro batches, optimizer step, metrics, checkpoints, and a clean stop."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import distributed as dist

from hpcjobs.run.events import record_event
from hpcjobs.run.experiment import Experiment
from hpcjobs.run.layout import RunDir
from hpcjobs.run.notices import Notices
from hpcjobs.run.verdict import Verdict
from hpcjobs.train.checkpoint import Progress
from hpcjobs.train.engine import plain_gradient_norm
from hpcjobs.train.finite import refuse_broken_weights, refuse_non_finite
from hpcjobs.train.heartbeat import SILENT, Silent
from hpcjobs.train.interval import Cost
from hpcjobs.train.metrics import StepClock, batch_shape, device_name, memory_gib, write_metric
from hpcjobs.train.process import Process
from hpcjobs.train.rhythm import Rhythm
from hpcjobs.train.saver import Saved, Saver
from hpcjobs.train.stop import agree

Batch = dict[str, torch.Tensor]


@dataclass
class Loop:
    """Everything that the loop touches."""

    experiment: Experiment
    run: RunDir
    attempt: int
    process: Process
    engine: Any
    stop: Notices
    steps: int
    """Optimizer steps of the whole training."""
    saver: Saver
    rhythm: Rhythm
    progress: Progress = field(default_factory=Progress)
    saved_step: int | None = None
    """The newest committed checkpoint."""
    beats: Silent = SILENT


def run_loop(loop: Loop, batches: Iterator[Batch], measure_heldout: Any) -> Verdict:  # noqa: ANN401
    """Trains from ``loop.progress`` to the end, or to the next boundary after a stop request.

    Args:
        loop: the state; its progress is advanced.
        batches: this rank's micro batches from the current step on.
        measure_heldout: called with the step where the configuration asks for it.
    """
    clock = StepClock()
    while loop.progress.step < loop.steps:
        loop.beats.lap(loop.progress.step, loop.steps)
        saver = loop.saver
        stop_now, save_now, working, failed = agree(
            (loop.stop.stop, _save_is_due(loop), saver.working, saver.failed), loop.process.device
        )
        if failed or not working:
            loop.beats.enter("save")
            note_saved(loop, saver.advance())
        if stop_now:
            save(loop)
            name = next(iter(loop.stop.received), "another rank's signal")
            return Verdict("checkpointed", f"stopped on {name}", loop.saved_step, loop.process.rank)
        if save_now:
            begin_save(loop)
        train_step(loop, batches, clock)
        if _heldout_is_due(loop):
            measure_heldout(loop.progress.step)
    save(loop)
    return Verdict("done", f"all {loop.steps} steps", loop.saved_step, loop.process.rank)


def train_step(loop: Loop, batches: Iterator[Batch], clock: StepClock) -> None:
    """One optimizer step over the global batch; every token of it weighs the same.

    DeepSpeed divides by the accumulation and averages over the ranks, so each micro batch's
    summed loss is scaled by accumulation x world size / tokens of the global batch. The
    gradient then does not depend on how the batch is split.
    """
    accumulation, beats = loop.experiment.grad_accum, loop.beats
    beats.enter("data")
    with clock.waiting():
        micro_batches = [next(batches) for _ in range(accumulation)]
    device = loop.process.device
    beats.enter("collective")
    tokens = _sum_over_ranks(sum(_label_tokens(batch) for batch in micro_batches), device)
    scale = accumulation * loop.process.world_size / max(1.0, tokens)
    lr = float(loop.engine.get_lr()[0])  # of this step; afterwards it is the next one's
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    norm: float | None = None
    for micro, batch in enumerate(micro_batches):
        beats.enter("forward", micro)
        loss = loop.engine(**{name: value.to(device) for name, value in batch.items()})
        loss_sum += loss.detach().double()
        beats.enter("backward", micro)
        loop.engine.backward(loss * scale)
        norm = plain_gradient_norm(loop.engine)
        beats.enter("step", micro)
        loop.engine.step()
    samples = loop.experiment.train.global_batch
    loop.progress = replace(
        loop.progress,
        step=loop.progress.step + 1,
        samples=loop.progress.samples + samples,
        tokens=loop.progress.tokens + int(tokens),
    )
    beats.enter("collective")
    mean_loss = _sum_over_ranks(float(loss_sum), device) / max(1.0, tokens)
    norm = _norm_of_step(loop, norm)
    refuse_non_finite("loss", mean_loss, loop.progress.step)
    refuse_non_finite("gradient norm", norm, loop.progress.step)
    figures = {"loss": mean_loss, "grad_norm": norm, "lr": lr, **batch_shape(micro_batches)}
    _report(loop, figures, int(tokens), clock)


def _norm_of_step(loop: Loop, plain: float | None) -> float | None:
    """The gradient norm before clipping; None where fp16 found an overflow and skipped the step."""
    kept = loop.engine.get_global_grad_norm() if plain is None else plain
    norm = None if kept is None else float(kept)
    skips = loop.experiment.train.precision == "fp16"  # its loss scale is found by overflowing
    return None if skips and norm is not None and not math.isfinite(norm) else norm


def save(loop: Loop) -> None:
    """Ends the save in flight and saves the current step, unless it is saved by then.

    Raises:
        TrainingFailedError: the weights are no numbers any more.
    """
    loop.beats.enter("save")
    note_saved(loop, loop.saver.finish())
    if loop.saved_step != loop.progress.step:
        begin_save(loop)
        note_saved(loop, loop.saver.finish())


def begin_save(loop: Loop) -> None:
    """Begins to save the current step; a save that is still in flight is waited for.

    Raises:
        TrainingFailedError: the weights are no numbers any more.
    """
    loop.beats.enter("save")
    note_saved(loop, loop.saver.finish())
    trained = (p for p in loop.engine.module.parameters() if p.requires_grad)
    refuse_broken_weights(trained, loop.progress.step)
    loop.rhythm.begun()
    loop.saver.begin(loop.progress)
    if not loop.experiment.train.checkpoint.asynchronous:
        note_saved(loop, loop.saver.finish())


def note_saved(loop: Loop, saved: Saved | None) -> None:
    """Writes down what was committed, and what follows for the next saves."""
    if saved is None:
        return
    loop.saved_step = saved.step
    if not loop.process.is_leader:
        return
    record_event(
        loop.run,
        "checkpoint",
        attempt=loop.attempt,
        step=saved.step,
        save_s=round(saved.save_s, 3),
        stall_s=round(saved.stall_s, 4),
        pruned=saved.pruned,
        notice_s=_since(loop.stop.first_s),
    )
    for kind, figures in loop.rhythm.learn(Cost(saved.stall_s, saved.save_s)):
        record_event(loop.run, kind, attempt=loop.attempt, **figures)


def _since(moment_s: float | None) -> float | None:
    """Seconds since a moment of the monotonic clock."""
    return None if moment_s is None else round(time.monotonic() - moment_s, 3)


def _save_is_due(loop: Loop) -> bool:
    """By steps all ranks know it; by the time only rank 0 looks, and waits for one in flight."""
    every, step = loop.experiment.train.checkpoint.every_steps, loop.progress.step
    if step == 0 or step in (loop.saved_step, loop.saver.step):
        return False
    by_steps = every is not None and step % every == 0
    idle = loop.saver.step is None
    return by_steps or (idle and loop.process.is_leader and loop.rhythm.is_due())


def _heldout_is_due(loop: Loop) -> bool:
    every, step = loop.experiment.train.heldout_every_steps, loop.progress.step
    return every is not None and step % every == 0 and step < loop.steps


def _label_tokens(batch: Batch) -> int:
    return int((batch["labels_BL"][:, 1:] != -100).sum())


def _sum_over_ranks(value: float, device: torch.device) -> float:
    total = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return float(total)


def _report(loop: Loop, figures: dict[str, Any], tokens: int, clock: StepClock) -> None:
    step_s, data_wait = clock.lap()
    loop.rhythm.step_s = step_s
    train = loop.experiment.train
    if not loop.process.is_leader or loop.progress.step % train.log_every_steps:
        return
    write_metric(
        loop.run.metrics,
        "train",
        attempt=loop.attempt,
        step=loop.progress.step,
        **figures,
        samples=loop.progress.samples,
        tokens=loop.progress.tokens,
        samples_per_s=train.global_batch / step_s,
        tokens_per_s=tokens / step_s,
        step_s=step_s,
        data_wait_share=data_wait,
        device=device_name(loop.process.device),
        **memory_gib(loop.process.device),
    )
