"""From the seconds of a step to the hours of a run."""

from dataclasses import dataclass

import numpy as np

from planner.architecture import Architecture
from planner.interruptions import (
    FAILURES_PER_1000_NODE_DAYS,
    Losses,
    daly_interval,
    failures_per_s,
    overhead,
)
from planner.layout import Layout, Quantity
from planner.prediction import Hours, StepTime
from planner.workload import Workload

_HOUR_S, _DAY_S, _GIGA = 3600.0, 86_400.0, 1e9
# A one-sided 95 % bound of a normal, and of a Poisson count of some size.
_P95 = 1.645
LONGEST_INTERVAL_S = 1800.0
"""Between checkpoints, as the training takes it where it chooses by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """What a cluster does to a run; every default can be replaced by one's own measurement."""

    startup_s: float = 120.0
    """Container, imports, NCCL and the first, slow steps; reading the weights comes on top."""
    disk_gb_per_s: float = 2.0
    """Of the shared file system, for one job, reading and writing."""
    failures_per_1000_node_days: float = FAILURES_PER_1000_NODE_DAYS
    preemptions_per_day: float = 0.0
    """Of one job on preemptible cards."""
    grace_s: float = 120.0
    """Warning before a preemption; 0 is none."""
    restart_s: float | None = None
    """After an interruption; null is the start-up."""
    queue_s: float = 0.0
    """Wait for cards, at the start and after every interruption."""
    checkpoint_interval_s: float | None = None
    """Null is the interval that loses least, ``LONGEST_INTERVAL_S`` at most."""
    evaluations: int = 0
    evaluation_s: float = 0.0
    """Seconds of one evaluation."""


def steps_of(workload: Workload, layout: Layout) -> Quantity | None:
    """Optimizer steps, given or from samples and epochs; None where neither is known."""
    if workload.steps is not None:
        return workload.steps + 0.0 * layout.global_batch
    if workload.samples is None:
        return None
    steps: Quantity = np.ceil(workload.samples * workload.epochs / layout.global_batch)
    return steps


def hours_of(
    architecture: Architecture,
    workload: Workload,
    layout: Layout,
    step: StepTime,
    checkpoint_bytes: Quantity,
    reliability: Reliability | None = None,
) -> Hours | None:
    """The run on the clock: start-up, steps, checkpoints, evaluation, interruptions, queue.

    Returns:
        None where the workload gives neither steps nor samples.
    """
    steps = steps_of(workload, layout)
    if steps is None:
        return None
    cluster = reliability or Reliability()
    start_s = _start_seconds(architecture, cluster)
    losses = losses_of(layout, step, checkpoint_bytes, cluster, start_s)
    interval = _interval(losses, cluster)
    train_s = steps * step.p50_s
    lost = overhead(interval, losses)
    fixed_s = start_s + cluster.evaluations * cluster.evaluation_s
    total_s = fixed_s + train_s * (1.0 + lost)
    events = losses.per_s * train_s
    unlucky_s = _P95 * np.sqrt(events) * _each_s(interval, losses)
    slow_s = fixed_s + steps * step.p95_s * (1.0 + lost) + unlucky_s
    return Hours(
        steps=steps,
        train_hours_p50=train_s / _HOUR_S,
        hours_p50=total_s / _HOUR_S,
        hours_p95=slow_s / _HOUR_S,
        wall_hours_p50=(total_s + (1.0 + events) * cluster.queue_s) / _HOUR_S,
        goodput=train_s / total_s,
        checkpoint_interval_s=interval,
    )


def _start_seconds(architecture: Architecture, cluster: Reliability) -> float:
    """Start-up, and reading the weights in two bytes each."""
    return cluster.startup_s + architecture.parameters * 2.0 / (cluster.disk_gb_per_s * _GIGA)


def losses_of(
    layout: Layout,
    step: StepTime,
    checkpoint_bytes: Quantity,
    cluster: Reliability,
    start_s: float,
) -> Losses:
    """Interruptions of a run.

    A preemption is graceful where the warning is long enough for the step under way and a save.
    """
    save_s = checkpoint_bytes / (cluster.disk_gb_per_s * _GIGA)
    graceful = np.where(cluster.grace_s >= step.p95_s + save_s, 1.0, 0.0)[()]
    preempted = cluster.preemptions_per_day / _DAY_S
    failed = failures_per_s(layout.nodes, cluster.failures_per_1000_node_days)
    return Losses(
        save_s=save_s,
        final_save_s=save_s,
        restart_s=start_s if cluster.restart_s is None else cluster.restart_s,
        ungraceful_per_s=failed + preempted * (1.0 - graceful),
        graceful_per_s=preempted * graceful,
        queue_s=cluster.queue_s,
    )


def _interval(losses: Losses, cluster: Reliability) -> Quantity:
    if cluster.checkpoint_interval_s is not None:
        return cluster.checkpoint_interval_s + 0.0 * losses.save_s
    rate = np.maximum(losses.ungraceful_per_s, 1e-12)
    best_s = np.minimum(daly_interval(losses.save_s, 1.0 / rate), LONGEST_INTERVAL_S)
    return np.maximum(best_s, np.maximum(losses.save_s, 1.0))  # not more often than a save takes


def _each_s(interval: Quantity, losses: Losses) -> Quantity:
    """Seconds that one interruption takes on average."""
    rate = np.maximum(losses.per_s, 1e-12)
    ungraceful = losses.ungraceful_per_s * (interval / 2.0 + losses.restart_s)
    graceful = losses.graceful_per_s * (losses.final_save_s + losses.restart_s)
    return (ungraceful + graceful) / rate
