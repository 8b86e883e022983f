"""From an experiment to the question that the planner's search answers, and back."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hpcjobs.login.workload_of import describe
from hpcjobs.run.cluster_config import slurm_time_s
from hpcjobs.run.experiment import Experiment, Parallel
from hpcjobs.run.plan_config import CardEntry
from hpcjobs.run.schema import plain
from planner.cards import card_of
from planner.cost import Energy
from planner.models.read import architecture_of
from planner.plan import Ask, CardOffer, Choice, Plan
from planner.plan_hash import config_hash
from planner.prediction import GIB, Prediction
from planner.prices import read_prices
from planner.search.candidate import Candidate
from planner.search.conditions import PREEMPTIONS_PER_DAY, Conditions
from planner.search.evaluate import Evaluator
from planner.search.limits import Limits
from planner.search.options import Option
from planner.search.search import search
from planner.time.hours import Reliability

COMMON_CARDS = ("RTX 4090", "L40S", "A100-SXM4-40GB", "A100-SXM4-80GB", "H100-SXM5")
"""Planned for where neither ``planner.cards`` nor ``cluster.gpu_type`` names a card."""
MICRO_BATCHES = (1, 2, 4, 8, 16, 32, 64)
_SHORTEST_S = 600
_MEM_MARGIN = 1.1
"""Page cache and what the scheduler itself counts come on top of the planner's host memory."""
_MINUTE_S = 60


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and which entry of the configuration every offer comes from."""

    ask: Ask
    limits: Limits
    conditions: Conditions
    assumptions: tuple[str, ...]
    entries: Mapping[CardOffer, CardEntry]

    def entry_of(self, choice: Choice) -> CardEntry:
        """The configuration's entry that a choice was made from."""
        for offer, entry in self.entries.items():
            same = (offer.partition, offer.preemptible) == (choice.partition, choice.preemptible)
            if same and card_of(offer.gpu).name == choice.gpu:
                return entry
        raise LookupError(choice.gpu)


def question_of(
    experiment: Experiment,
    wanted: Parallel,
    given: frozenset[str],
    found: Sequence[CardEntry] = (),
) -> Question:
    """The question of an experiment.

    Args:
        experiment: the validated experiment.
        wanted: the layout whose given values must stay.
        given: dotted keys whose values must stay, such as ``parallel.micro_batch``.
        found: cards of this machine, for where the configuration names none.

    Raises:
        ConfigError: the experiment cannot be described to the planner.
        PlannerError: the same, in the planner's words.
    """
    settings, described = experiment.planner, describe(experiment)
    entries, note = _entries(experiment, found)
    offers = {_offer(entry): entry for entry in entries}
    train = experiment.train
    if settings.keep_layout:
        given = given | LAYOUT
    stage = f"zero{wanted.zero_stage}"
    ask = Ask(
        workload=described.workload,
        global_batch=train.global_batch,
        offers=tuple(offers),
        objective=settings.objective,
        deadline_hours=settings.deadline_hours,
        budget=settings.budget,
        shardings=(stage,) if "parallel.zero_stage" in given else settings.shardings,
        offloads=settings.offloads,
        grad_ckpt=_checkpointing(experiment, given),
        micro_batches=_micro_batches(train.global_batch, wanted, given),
    )
    return Question(
        ask=ask,
        limits=_limits(wanted, given),
        conditions=conditions_of(experiment),
        assumptions=(*described.assumptions, *_circumstances(experiment, entries, note)),
        entries=offers,
    )


LAYOUT = frozenset(
    "parallel.zero_stage parallel.nodes parallel.gpus_per_node parallel.micro_batch "
    "parallel.grad_accum train.grad_checkpointing".split()
)


def _checkpointing(experiment: Experiment, given: frozenset[str]) -> tuple[bool, ...]:
    if "train.grad_checkpointing" in given:
        return (experiment.train.grad_checkpointing,)
    return (False, True)


def _micro_batches(global_batch: int, wanted: Parallel, given: frozenset[str]) -> tuple[int, ...]:
    if "parallel.micro_batch" in given:
        return (wanted.micro_batch,)
    return tuple(size for size in MICRO_BATCHES if size <= global_batch)


def _limits(wanted: Parallel, given: frozenset[str]) -> Limits:
    nodes = wanted.nodes if "parallel.nodes" in given else None
    per_node = wanted.gpus_per_node if "parallel.gpus_per_node" in given else None
    accumulation = wanted.grad_accum if "parallel.grad_accum" in given else None
    gpus = nodes * per_node if nodes and per_node else None
    return Limits(gpus=gpus, gpus_per_node=per_node, nodes=nodes, grad_accum=accumulation)


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
            checkpoint_interval_s=saves.every_s if saves.every_steps is None else None,
        ),
        energy=energy,
        prices=None if settings.prices is None else read_prices(settings.prices),
        currency=settings.currency,
        account=experiment.cluster.account,
    )


def _entries(
    experiment: Experiment, found: Sequence[CardEntry]
) -> tuple[Sequence[CardEntry], str | None]:
    """Cards to choose from, and a note where nobody has named one."""
    settings, cluster = experiment.planner, experiment.cluster
    if settings.cards:
        return settings.cards, None
    per_node = max(settings.gpus_per_node, experiment.parallel.gpus_per_node)
    most = max(settings.max_gpus, experiment.parallel.world_size)

    def entry(name: str) -> CardEntry:
        return CardEntry(gpu=name, gpus_per_node=per_node, max_gpus=most)

    if cluster.gpu_type:
        return [entry(cluster.gpu_type)], None
    if found:
        return found, None
    common = [entry(name) for name in COMMON_CARDS]
    note = (
        f"no card is named, so common ones are compared, up to {most} of each: write "
        f"cluster.gpu_type or planner.cards"
    )
    return common, note


def _circumstances(
    experiment: Experiment, entries: Sequence[CardEntry], note: str | None
) -> list[str]:
    """What is assumed of the cluster."""
    settings = experiment.planner
    notes = [] if note is None else [note]
    if any(entry.preemptible for entry in entries) and settings.preemptions_per_day is None:
        notes.append(
            f"a preemptible job is interrupted {PREEMPTIONS_PER_DAY:g} times a day: write "
            f"planner.preemptions_per_day"
        )
    if settings.queue_hours is None:
        notes.append("no waiting in the queue: write planner.queue_hours")
    return notes


def _offer(entry: CardEntry) -> CardOffer:
    return CardOffer(
        gpu=card_of(entry.gpu).name,
        gpus_per_node=entry.gpus_per_node,
        max_gpus=entry.max_gpus,
        price_per_gpu_hour=entry.price,
        preemptible=entry.preemptible,
        partition=entry.partition,
    )


def answer(question: Question, experiment: Experiment, given: frozenset[str]) -> Plan:
    """Searches, and signs the plan with the hash of the experiment that it leads to.

    Raises:
        PlannerError: the question cannot be answered as it is put.
    """
    plan = search(
        question.ask,
        limits=question.limits,
        conditions=question.conditions,
        assumptions=question.assumptions,
    )
    planned = experiment
    if plan.chosen is not None:
        planned = applied(experiment, plan.chosen, question.entry_of(plan.chosen), given)
    return replace(plan, config_hash=config_hash(plain(planned)))


def applied(
    experiment: Experiment, choice: Choice, entry: CardEntry, given: frozenset[str]
) -> Experiment:
    """The experiment with a choice written into it; given keys stay."""
    parallel = replace(
        experiment.parallel,
        zero_stage=int(choice.sharding.removeprefix("zero")),  # type: ignore[arg-type]
        nodes=choice.nodes,
        gpus_per_node=choice.gpus_per_node,
        micro_batch=choice.micro_batch,
        grad_accum=choice.grad_accum,
    )
    changes = _cluster_changes(experiment, choice, entry)
    kept = {name: value for name, value in changes.items() if f"cluster.{name}" not in given}
    return replace(
        experiment,
        parallel=parallel,
        train=replace(experiment.train, grad_checkpointing=choice.grad_ckpt),
        cluster=replace(experiment.cluster, **kept),  # type: ignore[arg-type]
    )


def _cluster_changes(
    experiment: Experiment, choice: Choice, entry: CardEntry
) -> dict[str, str | int]:
    host = float(choice.prediction.memory.host_bytes)
    loaders = experiment.data.workers
    changes: dict[str, str | int] = {
        "mem": f"{math.ceil(_MEM_MARGIN * host / GIB)}G",
        "cpus_per_node": choice.gpus_per_node * (loaders + 1),
    }
    if choice.prediction.hours is not None:
        changes["time"] = time_limit(experiment, float(choice.prediction.hours.hours_p95))
    if entry.partition is not None:
        changes["partition"] = entry.partition
    if entry.gpu_type is not None:
        changes["gpu_type"] = entry.gpu_type
    return changes


def time_limit(experiment: Experiment, hours: float) -> str:
    """A wall-clock limit for so many hours, as Slurm writes it.

    A run that takes longer than ``planner.time_limit`` saves there, is requeued and goes on.
    """
    longest = slurm_time_s(experiment.planner.time_limit)
    lead = experiment.cluster.signal_lead_s
    wanted = max(_SHORTEST_S, 2 * lead, math.ceil(3600 * hours) + lead)
    minutes = math.ceil(min(wanted, longest) / _MINUTE_S)
    return f"{minutes // 60}:{minutes % 60:02d}:00"


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
        f"zero{parallel.zero_stage}", "none", experiment.train.grad_checkpointing, workload.loss
    )
    chosen = Candidate(
        offer, option, parallel.micro_batch, parallel.world_size, parallel.gpus_per_node
    )
    evaluator = Evaluator(architecture_of(workload.model), workload, conditions_of(experiment))
    found = evaluator.candidate(chosen, experiment.train.global_batch)
    return found.prediction(0), name is not None
