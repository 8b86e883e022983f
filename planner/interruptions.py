"""What failures and preemptions cost: how often to save, and what share of the time is left."""

from dataclasses import dataclass

import numpy as np

from planner.layout import Quantity

FAILURES_PER_1000_NODE_DAYS = 6.5
"""Meta's RSC-1, 150 million A100 hours under Slurm ("Revisiting Reliability in Large-Scale Machine
Learning Research Clusters", HPCA 2025). Other clusters: RSC-2 2.34, Llama 3 3.8, OPT-175B 16."""
_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Losses:
    """What interrupts a run, and what each interruption takes; times in seconds."""

    save_s: Quantity
    """Training stands still so long for one checkpoint."""
    final_save_s: Quantity
    """A checkpoint inside the grace period of a preemption."""
    restart_s: Quantity
    """Container, imports, NCCL, loading, skipping data."""
    ungraceful_per_s: Quantity
    """Losses without a warning: the work since the last checkpoint is gone."""
    graceful_per_s: Quantity = 0.0
    """Losses with time to save first."""
    queue_s: Quantity = 0.0
    """Wait for cards after each."""

    @property
    def per_s(self) -> Quantity:
        """All interruptions."""
        return self.ungraceful_per_s + self.graceful_per_s


def failures_per_s(
    nodes: Quantity, per_1000_node_days: float = FAILURES_PER_1000_NODE_DAYS
) -> Quantity:
    """Hardware failures of a job: every node adds its own.

    >>> round(1 / failures_per_s(2.0) / 86_400)
    77
    """
    return nodes * (per_1000_node_days / 1000.0 / _DAY_S)


def young_interval(save_s: Quantity, mean_time_s: Quantity) -> Quantity:
    """Seconds between checkpoints that lose least: ``sqrt(2 C M)`` (Young 1974, CACM 17-9).

    >>> round(float(young_interval(60.0, 6 * 3600.0)) / 60)
    27
    """
    interval: Quantity = np.sqrt(2.0 * save_s * mean_time_s)
    return interval


def daly_interval(save_s: Quantity, mean_time_s: Quantity) -> Quantity:
    """The same to higher order (Daly 2006, FGCS 22-3, equation 37).

    ``sqrt(2CM) (1 + sqrt(C/2M)/3 + (C/2M)/9) - C`` while C < 2M, else M.

    >>> round(float(daly_interval(60.0, 6 * 3600.0)))
    1570
    """
    share = save_s / (2.0 * mean_time_s)
    young = young_interval(save_s, mean_time_s)
    interval: Quantity = np.where(
        share < 1.0, young * (1.0 + np.sqrt(share) / 3.0 + share / 9.0) - save_s, mean_time_s
    )[()]
    return interval


def overhead(interval_s: Quantity, losses: Losses) -> Quantity:
    """Seconds lost for every second of training, without queue waits.

    Saving; after a loss without warning half an interval and a restart; after one with warning a
    last save and a restart.
    """
    saving = losses.save_s / interval_s
    ungraceful = losses.ungraceful_per_s * (interval_s / 2.0 + losses.restart_s)
    graceful = losses.graceful_per_s * (losses.final_save_s + losses.restart_s)
    return saving + ungraceful + graceful


def goodput(interval_s: Quantity, losses: Losses) -> Quantity:
    """Share of the allocated time in which the training moves on.

    >>> every_6_h = Losses(60.0, 60.0, 300.0, ungraceful_per_s=1 / 21_600)
    >>> round(goodput(3 * 3600.0, every_6_h), 3)
    0.788
    """
    return 1.0 / (1.0 + overhead(interval_s, losses))


def goodput_on_the_wall(interval_s: Quantity, losses: Losses) -> Quantity:
    """The same of the time on the wall, queue waits included."""
    return 1.0 / (1.0 + overhead(interval_s, losses) + losses.per_s * losses.queue_s)
