"""A choice of the planner, written into an experiment."""

import math
from dataclasses import replace
from typing import get_args

from hpcjobs.run.cluster_config import slurm_time_s
from hpcjobs.run.errors import ConfigError
from hpcjobs.run.experiment import Experiment
from hpcjobs.run.plan_config import CardEntry, Sharding
from planner.plan import Choice
from planner.prediction import GIB

_SHORTEST_S = 600
_MEM_MARGIN = 1.1
"""Page cache and what the scheduler itself counts come on top of the planner's host memory."""
_MINUTE_S = 60


def unknown_to_trainer(choice: Choice) -> str | None:
    """Why the trainer cannot run a choice, in one line; None where it can.

    It has DeepSpeed's four stages with and without offload, and one way to compute the loss.
    """
    if choice.sharding in get_args(Sharding) and choice.loss == "fp32":
        return None
    return (
        f"the trainer runs ZeRO 0 to 3 with the loss in fp32, and the plan has {choice.sharding}, "
        f"loss {choice.loss}: plan again with python -m planner +experiment=NAME"
    )


def applied(
    experiment: Experiment, choice: Choice, entry: CardEntry, given: frozenset[str]
) -> Experiment:
    """The experiment with a choice written into it; given keys stay.

    Raises:
        ConfigError: the trainer cannot run the choice.
    """
    if unknown := unknown_to_trainer(choice):
        raise ConfigError(unknown)
    parallel = replace(
        experiment.parallel,
        zero_stage=int(choice.sharding.removeprefix("zero")),  # type: ignore[arg-type]
        offload_optimizer="none" if choice.offload == "none" else "cpu",
        offload_params="cpu" if choice.offload == "optimizer_params" else "none",
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

    A run that takes longer than ``planner.time_limit`` saves there, is requeued and goes on;
    where it may not be requeued, it asks for all of its hours at once.
    """
    requeued = experiment.cluster.requeue
    longest = slurm_time_s(experiment.planner.time_limit) if requeued else math.inf
    lead = experiment.cluster.signal_lead_s
    wanted = max(_SHORTEST_S, 2 * lead, math.ceil(3600 * hours) + lead)
    minutes = math.ceil(min(wanted, longest) / _MINUTE_S)
    return f"{minutes // 60}:{minutes % 60:02d}:00"
