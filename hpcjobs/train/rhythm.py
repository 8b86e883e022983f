"""When the next save is due by the time, and whether a last save would fit into the warning."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from hpcjobs.run.experiment import Experiment
from hpcjobs.train.interval import RECENT, Cost, auto_interval_s, mean_time_s, recent_costs

_MATERIAL = 0.2
"""A change by this share is worth an event."""


class Rhythm:
    """The clock of the saves; only rank 0's counts, the others follow it."""

    def __init__(self, experiment: Experiment, events: Iterable[Mapping[str, Any]] = ()) -> None:
        """Begins to count now.

        Args:
            experiment: the run.
            events: of earlier attempts, which have measured saves.
        """
        self.step_s = 0.0
        """What the last step took; a warning may come at its beginning."""
        self._experiment = experiment
        self._costs = recent_costs(events)
        self._begun_at = time.monotonic()
        self._told: dict[str, float] = {}

    @property
    def interval_s(self) -> float | None:
        """Seconds from one save to the next; None goes by steps alone."""
        every_s = self._experiment.train.checkpoint.every_s
        if every_s != "auto":
            return every_s
        return auto_interval_s(self._costs, self._mean_time_s)

    def is_due(self) -> bool:
        """Whether the interval has passed since the last save began."""
        interval_s = self.interval_s
        return interval_s is not None and time.monotonic() - self._begun_at >= interval_s

    def begun(self) -> None:
        """A save begins now."""
        self._begun_at = time.monotonic()

    def learn(self, cost: Cost) -> list[tuple[str, dict[str, float]]]:
        """Takes the cost of a save into account; returns events that are worth recording."""
        self._costs = [*self._costs, cost][-RECENT:]
        news = []
        if self._experiment.train.checkpoint.every_s == "auto":
            interval_s = auto_interval_s(self._costs, self._mean_time_s)
            if self._is_news("checkpoint_interval", interval_s):
                news.append(("checkpoint_interval", {"interval_s": round(interval_s, 1)}))
        lead_s, needed_s = self._experiment.cluster.signal_lead_s, self._needed_grace_s
        if needed_s > lead_s and self._is_news("grace_too_short", needed_s):
            figures = {"lead_s": lead_s, "needed_s": round(needed_s, 1)}
            news.append(("grace_too_short", figures))
        return news

    @property
    def _needed_grace_s(self) -> float:
        """From a notice to the commit: the step under way, the save in flight, and a last one."""
        saves = 2 if self._experiment.train.checkpoint.asynchronous else 1
        return self.step_s + saves * max((cost.save_s for cost in self._costs), default=0.0)

    @property
    def _mean_time_s(self) -> float:
        return mean_time_s(self._experiment, self._needed_grace_s)

    def _is_news(self, kind: str, figure: float) -> bool:
        old = self._told.get(kind)
        if old is not None and abs(figure - old) <= _MATERIAL * old:
            return False
        self._told[kind] = figure
        return True
