"""What surrounds a run, as the planner takes it; and the figures of a layout as it stands."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hpcjobs.login.workload_of import describe
from hpcjobs.run.experiment import Checkpoint, Experiment
from planner.cards import card_of
from planner.cost import Energy
from planner.errors import PlannerError
from planner.models.read import architecture_of
from planner.plan import CardOffer
from planner.prediction import Prediction
from planner.prices import read_prices
from planner.search.candidate import Candidate
from planner.search.conditions import PREEMPTIONS_PER_DAY, Conditions
from planner.search.evaluate import Evaluator
from planner.search.options import Option
from planner.time.hours import Reliability

if TYPE_CHECKING:
    from planner.calibration.store import Calibration

COMMON_CARDS = ("RTX 4090", "L40S", "A100-SXM4-40GB", "A100-SXM4-80GB", "H100-SXM5")
"""Planned for where neither ``planner.cards`` nor ``cluster.gpu_type`` names a card."""


def conditions_of(experiment: Experiment) -> Conditions:
    """Interruptions, queue, prices and grid of an experiment.

    Raises:
        PlannerError: the price table cannot be read.
    """
    settings, saves = experiment.planner, experiment.train.checkpoint
    energy = Energy()
    if settings.grams_co2_per_kwh is not None:
        energy = replace(energy, grid_g_per_kwh=settings.grams_co2_per_kwh)
    rate = settings.preemptions_per_day
    return Conditions(
        reliability=Reliability(
            preemptions_per_day=PREEMPTIONS_PER_DAY if rate is None else rate,
            queue_s=3600.0 * (settings.queue_hours or 0.0),
            failures_per_1000_node_days=experiment.cluster.failures_per_1000_node_days,
            checkpoint_interval_s=_interval_s(saves),
        ),
        energy=energy,
        prices=None if settings.prices is None else read_prices(settings.prices),
        currency=settings.currency,
        account=experiment.cluster.account,
    )


def _interval_s(saves: Checkpoint) -> float | None:
    """Seconds between checkpoints; None takes the interval that loses least, as ``auto`` does."""
    if saves.every_steps is not None or saves.every_s == "auto":
        return None
    return saves.every_s


def calibration_of(experiment: Experiment) -> "Calibration | None":
    """What runs have taught: the file that is named, or the user's own where there is one.

    Raises:
        PlannerError: the file is named and missing, or broken.
    """
    named = experiment.planner.calibration
    if named == "none":
        return None
    from planner.calibration.store import default_path, read_calibration

    found = read_calibration(default_path() if named is None else Path(named).expanduser())
    if found is None and named is not None:
        raise PlannerError(
            f"planner.calibration: {named} does not exist; write one with python -m planner "
            f"calibrate RUNS... --output {named}"
        )
    return found


def as_configured(experiment: Experiment) -> tuple[Prediction, bool]:
    """The figures of an experiment's own layout, and whether its card is known.

    Without a card the largest common one stands in, so that memory can be told all the same.

    Raises:
        ConfigError: the experiment cannot be described to the planner.
        PlannerError: the same, or the card is not known.
    """
    parallel, cluster, settings = experiment.parallel, experiment.cluster, experiment.planner
    entries = [
        entry
        for entry in settings.cards
        if entry.gpu_type == cluster.gpu_type and entry.partition in (None, cluster.partition)
    ]
    name = entries[0].gpu if entries else cluster.gpu_type
    price = entries[0].price if entries else None
    card = card_of(name or COMMON_CARDS[-1])
    offer = CardOffer(card.name, parallel.gpus_per_node, parallel.world_size, price)
    workload = describe(experiment).workload
    option = Option(
        f"zero{parallel.zero_stage}",
        parallel.offload,
        experiment.train.grad_checkpointing,
        workload.loss,
    )
    chosen = Candidate(
        offer, option, parallel.micro_batch, parallel.world_size, parallel.gpus_per_node
    )
    evaluator = Evaluator(
        architecture_of(workload.model),
        workload,
        conditions_of(experiment),
        calibration_of(experiment),
    )
    found = evaluator.candidate(chosen, experiment.train.global_batch)
    return found.prediction(0), name is not None
