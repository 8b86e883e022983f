"""What a simulated long run meets, and what each event costs."""

from dataclasses import dataclass
from typing import Literal

from hpcjobs.train.interval import Cost, auto_interval_s
from planner.interruptions import Losses, failures_per_s

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """One world; times in seconds. Each field is varied alone in the sensitivity."""

    nodes: int = 10
    cards_per_node: int = 8
    training_days: float = 15.0
    """Days of undisturbed training that the run needs."""
    failures_per_1000_node_days: float = 6.5
    preemptions_per_day: float = 1.0
    notice: Literal[True, False] = True
    """Whether the grace time is long enough for a last save."""
    node_share: float = 0.5
    """Share of the failures that only another node cures; the others end with the process."""
    detect_s: float = 60.0
    """From a failure to the end of all processes: a crash takes seconds, a hang minutes."""
    step_s: float = 10.0
    save_s: float = 60.0
    """From the start of a save to its commit."""
    stall_share: float = 0.1
    """Share of a periodic save that the training stands still for; the rest is asynchronous."""
    restart_in_place_s: float = 120.0
    """From the end of the processes to the first new step, in the same allocation."""
    restart_requeue_s: float = 180.0
    """From a new allocation to the first new step."""
    health_s: float = 2.0
    """The look at all nodes before an attempt."""
    queue_s: float = 1800.0
    """Mean wait for a new allocation, exponentially distributed."""
    time_limit_days: float = 7.0
    """An allocation lasts no longer; its end is announced."""
    person_s: float = 8 * 3600.0
    """Until somebody starts a run again that the rules have stopped."""

    @property
    def stall_s(self) -> float:
        """How long the training stands still for a periodic save."""
        return self.save_s * self.stall_share

    @property
    def failures_per_s(self) -> float:
        """Failures of the whole job."""
        return float(failures_per_s(self.nodes, self.failures_per_1000_node_days))

    @property
    def preemptions_per_s(self) -> float:
        """Preemptions of the whole job."""
        return self.preemptions_per_day / DAY_S

    @property
    def interval_s(self) -> float:
        """What ``train.checkpoint.every_s=auto`` chooses here, by its own code."""
        abrupt = self.failures_per_s + (0.0 if self.notice else self.preemptions_per_s)
        cost = Cost(stall_s=self.stall_s, save_s=self.save_s)
        return auto_interval_s([cost], 1.0 / abrupt if abrupt else float("inf"))

    @property
    def losses(self) -> Losses:
        """The same world in the terms of the closed form (``planner.interruptions``).

        It knows one restart cost: the mean over all interruptions, detection included.
        """
        failures, preemptions = self.failures_per_s, self.preemptions_per_s
        in_place = failures * (1 - self.node_share)
        elsewhere = failures * self.node_share + preemptions + self._limits_per_s
        restarts = in_place * self.restart_in_place_s + elsewhere * self.restart_requeue_s
        restarts += failures * self.detect_s
        per_s = in_place + elsewhere
        abrupt = failures + (0.0 if self.notice else preemptions)
        return Losses(
            save_s=self.stall_s,
            final_save_s=self.save_s,
            restart_s=restarts / per_s + self.health_s if per_s else 0.0,
            ungraceful_per_s=abrupt,
            graceful_per_s=per_s - abrupt,
            queue_s=self.queue_s * elsewhere / per_s if per_s else 0.0,
        )

    @property
    def _limits_per_s(self) -> float:
        """How often a time limit ends an allocation that nothing else has ended before."""
        ends = self.failures_per_s * self.node_share + self.preemptions_per_s
        limit_s = self.time_limit_days * DAY_S
        if ends == 0:
            return 1.0 / limit_s
        from math import exp

        survives = exp(-ends * limit_s)
        return ends * survives / (1.0 - survives)
