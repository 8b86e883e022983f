"""From an experiment to the question that the planner's search answers, and back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hpcjobs.login.plan_applied import applied
from hpcjobs.login.plan_conditions import COMMON_CARDS, calibration_of, conditions_of
from hpcjobs.login.workload_of import describe
from hpcjobs.run.experiment import Experiment, Parallel
from hpcjobs.run.plan_config import CardEntry, Offload
from hpcjobs.run.schema import plain
from planner.cards import card_of
from planner.plan import Ask, CardOffer, Choice, Plan
from planner.plan_hash import config_hash
from planner.search.conditions import PREEMPTIONS_PER_DAY, Conditions
from planner.search.limits import Limits
from planner.search.search import search

MICRO_BATCHES = (1, 2, 4, 8, 16, 32, 64)


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
    entries, note = _entries(experiment, wanted, found)
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
        offloads=_offloads(settings.offloads, wanted, given),
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
    "parallel.zero_stage parallel.offload_optimizer parallel.offload_params parallel.nodes "
    "parallel.gpus_per_node parallel.micro_batch parallel.grad_accum "
    "train.grad_checkpointing".split()
)


_PLACES: Mapping[Offload, tuple[str, str]] = {
    "none": ("none", "none"),
    "optimizer": ("cpu", "none"),
    "optimizer_params": ("cpu", "cpu"),
}
"""Of every offload, where the states and the weights lie."""


def _offloads(
    considered: Sequence[Offload], wanted: Parallel, given: frozenset[str]
) -> tuple[Offload, ...]:
    """The offloads to search: those of the settings, unless what was given excludes them all."""

    def fits(offload: Offload) -> bool:
        states, weights = _PLACES[offload]
        is_free = [f"parallel.offload_{what}" not in given for what in ("optimizer", "params")]
        return (is_free[0] or states == wanted.offload_optimizer) and (
            is_free[1] or weights == wanted.offload_params
        )

    possible = tuple(offload for offload in _PLACES if fits(offload))
    return tuple(offload for offload in considered if offload in possible) or possible


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


def _entries(
    experiment: Experiment, wanted: Parallel, found: Sequence[CardEntry]
) -> tuple[Sequence[CardEntry], str | None]:
    """Cards to choose from, and a note where nobody has named one."""
    settings, cluster = experiment.planner, experiment.cluster
    if settings.cards:
        return settings.cards, None
    per_node = max(settings.gpus_per_node, wanted.gpus_per_node)
    most = max(settings.max_gpus, wanted.world_size)

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
        calibration=calibration_of(experiment),
    )
    planned = experiment
    if plan.chosen is not None:
        planned = applied(experiment, plan.chosen, question.entry_of(plan.chosen), given)
    return replace(plan, config_hash=config_hash(plain(planned)))


def plan_as_configured(experiment: Experiment) -> Plan:
    """The plan of an experiment's own layout and no other, for limits and approvals.

    Raises:
        ConfigError: the experiment cannot be described to the planner.
        PlannerError: the same, in the planner's words.
    """
    question = question_of(experiment, experiment.parallel, LAYOUT)
    return answer(question, experiment, LAYOUT)
