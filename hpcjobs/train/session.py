"""One attempt of a training, from the run directory to the verdict."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hpcjobs.evaluate.heldout import heldout_loss
from hpcjobs.run.events import record_event
from hpcjobs.run.experiment import Experiment
from hpcjobs.run.files import read_json, write_json
from hpcjobs.run.layout import RunDir
from hpcjobs.run.notices import Notices
from hpcjobs.run.schema import build
from hpcjobs.run.verdict import Verdict
from hpcjobs.train.checkpoint import restore
from hpcjobs.train.engine import build_engine, compute_dtype
from hpcjobs.train.export import export_result
from hpcjobs.train.finite import refuse_non_finite
from hpcjobs.train.loop import Loop, run_loop
from hpcjobs.train.method import apply_method
from hpcjobs.train.metrics import write_metric
from hpcjobs.train.mgm.model import build_model
from hpcjobs.train.process import Process, seed_everything, start_process
from hpcjobs.train.samples import Samples, batches, load_samples
from hpcjobs.train.schedule import total_steps
from hpcjobs.train.stop import agree
from hpcjobs.train.weights import load_weights


@dataclass
class Session:
    """What an attempt has set up before its first step."""

    experiment: Experiment
    run: RunDir
    process: Process
    samples: Samples
    engine: Any
    loop: Loop


def train(run: RunDir, attempt: int, stop: Notices) -> Verdict:
    """Runs one attempt to its end.

    Raises:
        HpcjobsError: what a user can mend; the attempt would fail again.
    """
    session = set_up(run, attempt, stop)
    process, loop = session.process, session.loop
    if _is_finished(session):
        reason = f"all {loop.steps} steps, as an earlier attempt left them"
        return Verdict("done", reason, loop.saved_step, process.rank)
    if process.is_leader:
        record_event(run, "training", attempt=attempt, steps=loop.steps, first=loop.progress.step)
    if loop.progress.heldout_loss_before is None:
        before = measure(session, "before", loop.progress.step)
        loop.progress = replace(loop.progress, heldout_loss_before=before)
    micro_batches = batches(
        session.samples, session.experiment, process, loop.progress.step, loop.steps
    )
    verdict = run_loop(loop, micro_batches, lambda step: measure(session, "during", step))
    if verdict.status == "done":
        finish(session)
    return verdict


def _is_finished(session: Session) -> bool:
    """Whether nothing is left to do; asked of all ranks, which may see the result late."""
    loop = session.loop
    finished = loop.progress.step >= loop.steps and session.run.result_file.exists()
    return agree((finished,), session.process.device)[0]


def set_up(run: RunDir, attempt: int, stop: Notices) -> Session:
    """Joins the peers, reads data and model, and restores the newest checkpoint."""
    experiment = build(Experiment, read_json(run.config))
    process = start_process(experiment.parallel)
    samples = load_samples(experiment, run, process)
    steps = total_steps(experiment.train, samples.order.steps_per_epoch)
    engine = build_engine(_model(experiment), experiment, steps)
    seed_everything(experiment.train.seed, process.rank)
    progress, problems = restore(engine, run.checkpoints, process)
    if process.is_leader:
        for problem in problems:
            record_event(run, "checkpoint_rejected", attempt=attempt, reason=problem)
    loop = Loop(
        experiment=experiment,
        run=run,
        attempt=attempt,
        process=process,
        engine=engine,
        stop=stop,
        steps=steps,
        progress=progress,
        saved_step=progress.step or None,
        saved_at=time.monotonic(),
    )
    return Session(experiment, run, process, samples, engine, loop)


def measure(session: Session, moment: str, step: int, shuffled: bool = False) -> float | None:
    """Measures the held-out loss and writes it down; None without held-out samples."""
    items = session.samples.heldout
    if items is None:
        return None
    process = session.process
    loss = heldout_loss(
        session.engine.module,
        items.with_shuffled_pictures() if shuffled else items,
        range(process.rank, len(items), process.world_size),
        session.samples.collate,
        session.experiment.parallel.micro_batch,
        process.device,
    )
    what = "held-out loss with shuffled pictures" if shuffled else "held-out loss"
    refuse_non_finite(what, loss, step)
    if process.is_leader:
        attempt = session.loop.attempt
        write_metric(
            session.run.metrics, "heldout", attempt=attempt, step=step, moment=moment,
            shuffled_pictures=shuffled, loss=loss,
        )  # fmt: skip
    return loss


def finish(session: Session) -> None:
    """Measures the end, exports what was trained, and writes the result."""
    progress = session.loop.progress
    after = measure(session, "after", progress.step)
    shuffled = measure(session, "after", progress.step, shuffled=True)
    if not session.process.is_leader:
        return
    experiment = session.experiment
    module: nn.Module = session.engine.module
    export_result(module, experiment.model, experiment.method, session.run.result)
    write_json(
        session.run.result_file,
        {
            "steps": progress.step,
            "samples": progress.samples,
            "tokens": progress.tokens,
            "heldout_loss_before": progress.heldout_loss_before,
            "heldout_loss_after": after,
            "heldout_loss_shuffled_pictures": shuffled,
        },
    )


def _model(experiment: Experiment) -> nn.Module:
    """Builds the model: the same random values on every rank, then its weights and adapters."""
    torch.manual_seed(experiment.train.seed)
    default = torch.get_default_dtype()
    torch.set_default_dtype(compute_dtype(experiment.train))
    try:
        model = build_model(experiment.model)
        if experiment.model.weights == "pretrained":
            load_weights(model, Path(experiment.model.path or ""))
        if experiment.train.grad_checkpointing:
            model.activation_checkpointing_enable()
        return apply_method(model, experiment.method)
    finally:
        torch.set_default_dtype(default)
