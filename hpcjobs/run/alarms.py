"""What should make a person look at a run that goes on: pure rules over what was sampled."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from hpcjobs.run.watch_config import WatchSettings

_COVERED = 0.9
"""Share of the window that samples must span before anything is said of it."""
_LAPS_MIN = 10
_CLEAR_AFTER = 10


@dataclass(frozen=True)
class Reading:
    """One rank at one moment."""

    at_s: float
    lap: int
    data_s: float
    """Time spent waiting for data since the start."""
    compute_s: float
    """Time spent in forward passes since the start."""


@dataclass(frozen=True)
class Alarm:
    """One thing to look at, with its figures."""

    what: str
    """``data_wait``, ``gpu_idle``, ``straggler``, ``host_memory`` or ``gpu_memory``."""
    subject: str
    """The node, rank or card that it is about."""
    text: str
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        """What makes it the same alarm, whatever the figures are by now."""
        return (self.what, self.subject)


def in_window(readings: Sequence[Reading], window_s: float) -> Sequence[Reading]:
    """The readings of the last ``window_s``; none where they do not span it."""
    if not readings:
        return ()
    first_s = readings[-1].at_s - window_s
    recent = [reading for reading in readings if reading.at_s >= first_s]
    spans = recent[-1].at_s - recent[0].at_s >= _COVERED * window_s
    return recent if spans else ()


def data_wait_share(readings: Sequence[Reading], window_s: float) -> Optional[float]:  # noqa: UP045
    """Share of the window spent waiting for data; None where it is not known."""
    recent = in_window(readings, window_s)
    if len(recent) < 2 or recent[-1].lap == recent[0].lap:
        return None
    return (recent[-1].data_s - recent[0].data_s) / (recent[-1].at_s - recent[0].at_s)


def compute_s_a_lap(readings: Sequence[Reading], window_s: float) -> float | None:
    """Seconds of forward passes in one lap of the loop; None where too few laps are known."""
    recent = in_window(readings, window_s)
    laps = recent[-1].lap - recent[0].lap if recent else 0
    return (recent[-1].compute_s - recent[0].compute_s) / laps if laps >= _LAPS_MIN else None


def data_wait_alarm(
    shares: Mapping[int, float | None], host: str, settings: WatchSettings
) -> Alarm | None:
    """Data that come too slowly on a node.

    Args:
        shares: share of the time that each rank waited.
        host: the node.
        settings: the threshold.
    """
    over = {r: s for r, s in shares.items() if s is not None and s > settings.data_wait_share}
    if not over:
        return None
    worst = max(over, key=lambda rank: over[rank])
    text = (
        f"rank {worst} on {host} spends {over[worst]:.0%} of its time waiting for data: raise "
        f"data.workers, or look at the file system"
    )
    figures = {"shares": {str(rank): round(share, 3) for rank, share in over.items()}}
    return Alarm("data_wait", host, text, figures)


def straggler_alarms(paces: Mapping[int, float | None], settings: WatchSettings) -> list[Alarm]:
    """Ranks whose own computing takes longer than the others', who wait for them at every step.

    Args:
        paces: seconds of forward passes a lap, by rank; None is not known.
        settings: the factor over the median of the other ranks.
    """
    known = {rank: pace for rank, pace in paces.items() if pace is not None}
    alarms = []
    for rank, pace in sorted(known.items()):
        others = [other for number, other in known.items() if number != rank]
        usual = statistics.median(others) if others else 0.0
        if usual > 0 and pace > settings.straggler_factor * usual:
            text = (
                f"rank {rank} computes {pace:.3g} s a step where the others take {usual:.3g} s: "
                f"they wait for it; look at its node's clock rates and other load"
            )
            figures = {"rank": rank, "compute_s": pace, "others_s": usual}
            alarms.append(Alarm("straggler", f"rank {rank}", text, figures))
    return alarms


def idle_card_alarms(
    used: Mapping[str, Sequence[tuple[float, float]]], host: str, settings: WatchSettings
) -> list[Alarm]:
    """Cards that did nothing for a whole window.

    Args:
        used: by card, (monotonic seconds, percent busy) in order; a card that could not be read
            has no entry, which is not idleness.
        host: the node.
        settings: the threshold and the window.
    """
    alarms = []
    for card, samples in sorted(used.items()):
        if not samples:
            continue
        recent = [s for s in samples if s[0] >= samples[-1][0] - settings.window_s]
        if recent[-1][0] - recent[0][0] < _COVERED * settings.window_s:
            continue
        most = max(percent for _, percent in recent)
        if most <= settings.gpu_idle_percent:
            text = (
                f"card {card} on {host} was at most {most:.0f} % busy in the last "
                f"{settings.window_s / 60:.0f} min of training"
            )
            alarms.append(Alarm("gpu_idle", f"{host}:{card}", text, {"most_percent": most}))
    return alarms


class Ledger:
    """Says each alarm once, and once that it is over."""

    def __init__(self) -> None:
        """Nothing has been said yet."""
        self._absent: dict[tuple[str, str], int] = {}
        self._said: dict[tuple[str, str], Alarm] = {}

    def update(self, alarms: Sequence[Alarm]) -> tuple[list[Alarm], list[Alarm]]:
        """Takes the alarms of one look; returns those to say, and those that are over.

        One is over when it was absent from ten looks in a row, so that it does not flicker.
        """
        new = [alarm for alarm in alarms if alarm.key not in self._said]
        for alarm in alarms:
            self._said[alarm.key] = alarm
            self._absent[alarm.key] = 0
        over = []
        for key in self._said.keys() - {alarm.key for alarm in alarms}:
            self._absent[key] += 1
            if self._absent[key] >= _CLEAR_AFTER:
                over.append(self._said[key])
        for alarm in over:
            del self._said[alarm.key], self._absent[alarm.key]
        return new, over
