"""One attempt of a training, from the run directory to the verdict."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hpcjobs.evaluate.heldout import heldout_loss
from hpcjobs.run.best import read_measurements, steps_of_best
from hpcjobs.run.events import record_event
from hpcjobs.run.experiment import Experiment
from hpcjobs.run.files import read_json, read_lines
from hpcjobs.run.layout import RunDir
from hpcjobs.run.notices import Notices
from hpcjobs.run.schema import build
from hpcjobs.run.verdict import Verdict
from hpcjobs.train.checkpoint import restore
from hpcjobs.train.engine import build_engine
from hpcjobs.train.finite import refuse_non_finite
from hpcjobs.train.heartbeat import SILENT, Silent
from hpcjobs.train.loop import Loop, run_loop
from hpcjobs.train.metrics import write_metric
from hpcjobs.train.network import report_network, time_all_reduce
from hpcjobs.train.outcome import write_outcome
from hpcjobs.train.process import Process, seed_everything, start_process
from hpcjobs.train.rhythm import Rhythm
from hpcjobs.train.samples import Samples, batches, load_samples
from hpcjobs.train.saver import Saver
from hpcjobs.train.schedule import total_steps
from hpcjobs.train.starting_model import starting_model
from hpcjobs.train.startup import Startup
from hpcjobs.train.stop import agree


@dataclass
class Session:
    """What an attempt has set up before its first step."""

    experiment: Experiment
    run: RunDir
    process: Process
    samples: Samples
    engine: Any
    loop: Loop


def train(
    run: RunDir,
    attempt: int,
    stop: Notices,
    beats: Silent = SILENT,
    startup: Startup | None = None,
) -> Verdict:
    """Runs one attempt to its end.

    Raises:
        HpcjobsError: what a user can mend; the attempt would fail again.
    """
    startup = startup or Startup()
    session = set_up(run, attempt, stop, beats, startup)
    process, loop = session.process, session.loop
    if _is_finished(session):
        reason = f"all {loop.steps} steps, as an earlier attempt left them"
        return Verdict("done", reason, loop.saved_step, process.rank)
    all_reduce_mib_s = time_all_reduce(process)
    if process.is_leader:
        report_network(run, attempt, all_reduce_mib_s, session.experiment.health.link_mib_s)
        record_event(
            run, "training", attempt=attempt, steps=loop.steps, first=loop.progress.step,
            startup=startup.report(), all_reduce_mib_s=all_reduce_mib_s,
        )  # fmt: skip
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


def set_up(
    run: RunDir,
    attempt: int,
    stop: Notices,
    beats: Silent = SILENT,
    startup: Startup | None = None,
) -> Session:
    """Joins the peers, reads data and model, and restores the newest checkpoint."""
    startup = startup or Startup()
    planned = build(Experiment, read_json(run.config))
    beats.enter("load")
    process = start_process(planned.parallel, watched=beats.watched)
    startup.mark("rendezvous")
    experiment = planned.on(process.world_size)
    beats.enter("load")
    samples = load_samples(experiment, run, process, beats.alive)
    beats.enter("load")
    startup.mark("data")
    steps = total_steps(experiment.train, samples.order.steps_per_epoch)
    model = starting_model(experiment, run, attempt, process)
    beats.enter("load")
    engine = build_engine(model, experiment, steps)
    beats.enter("load")
    startup.mark("model")
    seed_everything(experiment.train.seed, process.rank)
    progress, problems = restore(
        engine, run.checkpoints, process, experiment.cluster.trusted, experiment.train.seed
    )
    startup.mark("load")
    if process.is_leader:
        for problem in problems:
            record_event(run, "checkpoint_rejected", attempt=attempt, reason=problem)
    plan = experiment.train.checkpoint

    def best(committed: Sequence[int]) -> list[int]:
        return steps_of_best(committed, read_measurements(run.metrics), plan.keep_best)

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
        saver=Saver(engine, run.checkpoints, attempt, process, plan.keep, best),
        rhythm=Rhythm(experiment, read_lines(run.events)),
        beats=beats,
    )
    return Session(experiment, run, process, samples, engine, loop)


def measure(session: Session, moment: str, step: int, shuffled: bool = False) -> float | None:
    """Measures the held-out loss and writes it down; None without held-out samples."""
    items = session.samples.heldout
    if items is None:
        return None
    process, beats = session.process, session.loop.beats
    beats.enter("heldout")
    loss = heldout_loss(
        session.engine.module,
        items.with_shuffled_pictures() if shuffled else items,
        range(process.rank, len(items), process.world_size),
        session.samples.collate,
        session.experiment.parallel.micro_batch,
        process.device,
        beats.alive,
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
    session.loop.beats.enter("export")
    figures = {
        "steps": progress.step,
        "samples": progress.samples,
        "tokens": progress.tokens,
        "heldout_loss_before": progress.heldout_loss_before,
        "heldout_loss_after": after,
        "heldout_loss_shuffled_pictures": shuffled,
    }
    write_outcome(
        session.engine.module,
        session.experiment,
        session.run,
        session.process,
        session.loop.attempt,
        figures,
    )
