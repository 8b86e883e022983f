"""``parallel=auto``: the planner's choice becomes the experiment before anything is submitted."""

import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcjobs.run.elastic import split_range
from hpcjobs.run.errors import ConfigError, HpcjobsError
from hpcjobs.run.experiment import Experiment, Parallel
from hpcjobs.run.files import read_json
from hpcjobs.run.layout import RunDir
from hpcjobs.run.plan_config import CardEntry
from hpcjobs.run.schema import build

if TYPE_CHECKING:
    from planner.plan import Plan

AUTO = "auto"
_OFFLOADS = ("offload_optimizer", "offload_params")
_PARALLEL = ("zero_stage", *_OFFLOADS, "nodes", "gpus_per_node", "micro_batch", "grad_accum")
_DRAFT = {
    "zero_stage": 0, "offload_optimizer": "none", "offload_params": "none",
    "nodes": 1, "gpus_per_node": 1, "micro_batch": 1, "grad_accum": None,
}  # fmt: skip
"""One card, one sample: valid with every global batch."""
_CLUSTER = ("time", "mem", "cpus_per_node", "partition", "gpu_type")
"""What a choice sets besides the layout, unless a word of the command line does."""
_CPU_MICRO_BATCH = 8


@dataclass(frozen=True, slots=True)
class Automatic:
    """An experiment without ``auto`` in it."""

    experiment: Experiment
    plan: "Plan | None"
    """None where nothing was planned: a run is continued, or there are no cards."""
    note: str
    """What was decided, in one line."""


def is_auto(raw: Mapping[str, Any]) -> bool:
    """Whether a composed configuration leaves anything of ``parallel`` to the planner."""
    parallel = raw.get("parallel")
    return isinstance(parallel, Mapping) and any(parallel.get(key) == AUTO for key in _PARALLEL)


def with_typed_auto(raw: dict[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """Frees the layout where ``parallel=auto`` was typed: the files' values do not count then.

    An experiment that chooses ``parallel: auto`` itself may fix values beside it.
    """
    if f"parallel={AUTO}" not in words:
        return raw
    typed = {word.lstrip("+").partition("=")[0] for word in words}
    free = {key: AUTO for key in _PARALLEL if f"parallel.{key}" not in typed}
    return {**raw, "parallel": {**raw["parallel"], **free}}


def without_auto(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with one card and one sample in the place of every ``auto``.

    It is valid with every global batch, so that everything else can be checked first; values
    that were given are checked for themselves.

    Raises:
        ConfigError: a given value has the wrong type.
    """
    parallel = raw["parallel"]
    plain = {
        key: _DRAFT[key] if key in _DRAFT and value == AUTO else value
        for key, value in parallel.items()
    }
    build(Parallel, _with_stage_for_offload(plain, parallel.get("zero_stage") == AUTO), "parallel")
    return {**raw, "parallel": {**plain, **_DRAFT}}


def _with_stage_for_offload(parallel: Mapping[str, Any], is_free: bool) -> dict[str, Any]:
    """A layout whose offload was given and whose stage was not: 3 has every offload."""
    offloads = any(parallel.get(key) == "cpu" for key in _OFFLOADS)
    return {**parallel, "zero_stage": 3} if offloads and is_free else dict(parallel)


def with_node_range(parallel: dict[str, Any]) -> dict[str, Any]:
    """Reads ``nodes: 2-4`` as sbatch would: at least 2 and at most 4.

    Raises:
        ConfigError: a range beside ``auto``: the planner plans one number of nodes.
    """
    found = split_range(parallel.get("nodes"))
    if found is None:
        return parallel
    if is_auto({"parallel": parallel}):
        raise ConfigError(
            f"parallel.nodes={parallel['nodes']} goes with a layout of your own: write "
            f"parallel=zero2 parallel.gpus_per_node=N parallel.micro_batch=N, or one number of "
            f"nodes beside parallel=auto"
        )
    return {**parallel, "min_nodes": found[0], "nodes": found[1]}


def given_keys(raw: Mapping[str, Any], words: Sequence[str]) -> frozenset[str]:
    """Dotted keys that the planner must leave: values beside ``auto``, and words that were typed.

    >>> raw = {"parallel": {"zero_stage": "auto", "micro_batch": 2, "grad_accum": None}}
    >>> sorted(given_keys(raw, ["cluster.time=2:00:00", "+experiment=mgm_lora"]))
    ['cluster.time', 'parallel.micro_batch']
    """
    parallel = raw["parallel"]
    beside = {
        f"parallel.{key}"
        for key in _PARALLEL
        if is_auto(raw) and parallel.get(key, AUTO) not in (AUTO, None)
    }
    typed = {word.lstrip("+").partition("=")[0] for word in words if "=" in word}
    named = {f"parallel.{key}" for key in _PARALLEL} | {f"cluster.{key}" for key in _CLUSTER}
    group = {"parallel.zero_stage"} if _stage_word(words) else set()
    free = {f"parallel.{key}" for key in _PARALLEL if parallel.get(key) == AUTO}
    return frozenset((beside | group | (typed & (named | {"train.grad_checkpointing"}))) - free)


def _stage_word(words: Sequence[str]) -> bool:
    """Whether a word such as ``parallel=zero1`` names the stage."""
    return any(word.startswith("parallel=") and word != f"parallel={AUTO}" for word in words)


def decide(
    raw: Mapping[str, Any], experiment: Experiment, given: frozenset[str], run: RunDir | None
) -> Automatic:
    """Fills in what was left to the planner.

    Args:
        raw: the composed configuration, with ``auto`` in it.
        experiment: the same with one card and one sample in its place.
        given: keys that must stay.
        run: the run directory that the user names; a run in it keeps its layout.

    Raises:
        ConfigError: no card is known, or nothing that was asked for is possible.
        PlannerError: the question cannot be answered as it is put.
    """
    if run is not None and run.config.exists():
        return _as_recorded(run, experiment, wanted_layout(experiment, raw, given), given)
    if experiment.budget.plan is not None:
        return _as_approved(experiment, wanted_layout(experiment, raw, given), given)
    here = _on_this_machine(experiment)
    named = experiment.planner.cards or experiment.cluster.gpu_type
    cards = cards_here() if here and not named else []
    wants_cpu = experiment.parallel.device == "cpu"
    if wants_cpu or (here and not named and not cards and experiment.parallel.device == "auto"):
        return _on_cpu(experiment, wanted_layout(experiment, raw, given), given)
    if not named and not cards:
        where = "this machine has no card that nvidia-smi shows" if here else "none is named"
        raise ConfigError(
            f"parallel=auto needs to know the cards, and {where}: write cluster.gpu_type=a100-80gb "
            f"or planner.cards=[{{gpu: A100-SXM4-80GB, max_gpus: 8}}], or parallel.device=cpu"
        )
    return _planned(experiment, wanted_layout(experiment, raw, given), given, cards)


def _planned(
    experiment: Experiment, wanted: Parallel, given: frozenset[str], cards: Sequence[CardEntry]
) -> Automatic:
    from hpcjobs.login.plan_applied import applied
    from hpcjobs.login.plan_question import answer, question_of

    question = question_of(experiment, wanted, given, cards)
    plan = answer(question, experiment, given)
    if plan.chosen is None:
        raise ConfigError(f"parallel=auto: {plan.nearest}")
    planned = applied(experiment, plan.chosen, question.entry_of(plan.chosen), given)
    return Automatic(planned, plan, f"parallel=auto: {words_of(planned)} ({plan.why})")


def _as_approved(experiment: Experiment, wanted: Parallel, given: frozenset[str]) -> Automatic:
    """Takes the choice of the plan that ``budget.plan`` names, whatever a search would say now.

    Raises:
        ConfigError: the plan chose nothing, or a card that is not on offer.
        PlannerError: the file is no plan.
    """
    from hpcjobs.login.plan_applied import applied, unknown_to_trainer
    from hpcjobs.login.plan_question import question_of
    from planner.plan_file import read_plan

    name = experiment.budget.plan or ""
    plan = read_plan(Path(name).expanduser())
    if plan.chosen is None:
        raise ConfigError(f"budget.plan: {name} chose nothing: {plan.nearest}")
    if unknown := unknown_to_trainer(plan.chosen):
        raise ConfigError(f"budget.plan: {name}: {unknown}")
    question = question_of(experiment, wanted, given)
    try:
        entry = question.entry_of(plan.chosen)
    except LookupError:
        raise ConfigError(
            f"budget.plan: {name} chose {plan.chosen.gpu}, which is not among the cards of "
            f"planner.cards and cluster.gpu_type"
        ) from None
    chosen = applied(experiment, plan.chosen, entry, given)
    kept = {key: getattr(wanted, key) for key in _PARALLEL if f"parallel.{key}" in given}
    planned = replace(chosen, parallel=replace(chosen.parallel, **kept))
    return Automatic(planned, plan, f"parallel=auto: {words_of(planned)} (as planned in {name})")


def wanted_layout(
    experiment: Experiment, raw: Mapping[str, Any], given: frozenset[str]
) -> Parallel:
    """The given values, on one card and one sample where nothing is given."""
    values = {key: raw["parallel"][key] for key in _PARALLEL if f"parallel.{key}" in given}
    free = "parallel.zero_stage" not in given
    return replace(experiment.parallel, **_with_stage_for_offload(values, free))


def _on_cpu(experiment: Experiment, wanted: Parallel, given: frozenset[str]) -> Automatic:
    """Nothing to plan: one process that takes as many samples at once as divide the batch."""
    draft = wanted
    per_process = experiment.train.global_batch // draft.world_size
    micro = max(n for n in range(1, _CPU_MICRO_BATCH + 1) if per_process % n == 0 or n == 1)
    if "parallel.micro_batch" not in given:
        draft = replace(draft, micro_batch=micro)
    planned = replace(experiment, parallel=draft)
    processes = f"{draft.world_size} process{'es' if draft.world_size > 1 else ''}"
    return Automatic(
        planned,
        None,
        f"parallel=auto: no cards, so nothing was planned: {processes} on the CPU, micro batch "
        f"{draft.micro_batch}",
    )


def _as_recorded(
    run: RunDir, experiment: Experiment, wanted: Parallel, given: frozenset[str]
) -> Automatic:
    """A run goes on as it began, whatever the planner would say today.

    Raises:
        ConfigError: the recorded configuration is of another version.
    """
    try:
        before = build(Experiment, read_json(run.config))
    except HpcjobsError as error:
        raise ConfigError(f"{run.config} is of another version: {error}") from error
    parallel = {key: getattr(before.parallel, key) for key in _PARALLEL}
    kept = {key: getattr(wanted, key) for key in _PARALLEL if f"parallel.{key}" in given}
    cluster = {
        key: getattr(before.cluster, key) for key in _CLUSTER if f"cluster.{key}" not in given
    }
    train = experiment.train
    if "train.grad_checkpointing" not in given:
        train = replace(train, grad_checkpointing=before.train.grad_checkpointing)
    continued = replace(
        experiment,
        parallel=replace(experiment.parallel, **{**parallel, **kept}),
        train=train,
        cluster=replace(experiment.cluster, **cluster),
    )
    return Automatic(continued, None, f"parallel=auto: as the run began, {words_of(continued)}")


def words_of(experiment: Experiment) -> str:
    """The layout in one phrase."""
    parallel = experiment.parallel
    card = experiment.cluster.gpu_type or "card"
    return (
        f"{parallel.nodes} x {parallel.gpus_per_node} {card}, {parallel.words}, micro batch "
        f"{parallel.micro_batch} x accumulation {experiment.grad_accum}, checkpointing "
        f"{'on' if experiment.train.grad_checkpointing else 'off'}"
    )


def _on_this_machine(experiment: Experiment) -> bool:
    from hpcjobs.login.slurm_submit import slurm_is_here

    kind = experiment.cluster.kind
    return kind == "local" or (kind == "auto" and not slurm_is_here())


def cards_here() -> list[CardEntry]:
    """The cards of this machine, by nvidia-smi; empty where there are none."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        shown = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    names = Counter(line.strip() for line in shown.stdout.splitlines() if line.strip())
    return [CardEntry(gpu=name, gpus_per_node=n, max_gpus=n) for name, n in names.items()]
