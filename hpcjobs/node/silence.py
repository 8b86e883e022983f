"""How long a rank has been silent, and how long it may be."""

from __future__ import annotations

from hpcjobs.run.beat import Beat
from hpcjobs.run.watch_config import WatchSettings

_FIRST_LAPS = 3
"""Laps that may compile, and after which a median is known."""


def allowed_s(beat: Beat | None, settings: WatchSettings) -> float:
    """Seconds that a rank may be silent where it is.

    >>> allowed_s(None, WatchSettings(start_s=1800))
    1800
    """
    if beat is None or beat.phase == "start":
        return settings.start_s
    slow = {
        "load": settings.load_s,
        "save": settings.save_s,
        "heldout": settings.heldout_s,
        "export": settings.export_s,
        "done": settings.export_s,
    }
    if beat.phase in slow:
        return slow[beat.phase]
    in_step_s = settings.hang_s or 0.0
    if beat.lap <= _FIRST_LAPS or beat.step_s is None:
        return max(in_step_s, settings.start_s)
    return max(in_step_s, settings.hang_factor * beat.step_s)


class Silence:
    """Follows one rank's beats by the watcher's own clock."""

    def __init__(self, now_s: float) -> None:
        """The rank has been started now."""
        self.beat: Beat | None = None
        self._heard_s = now_s
        self._looked_s = now_s

    def look(self, beat: Beat | None, now_s: float, awake_within_s: float) -> float:
        """Takes note of what was read and returns the seconds of silence.

        Args:
            beat: what was read; None where nothing could be, which is no news.
            now_s: the watcher's monotonic clock.
            awake_within_s: a longer time since the last look means that the watcher itself did
                not run, as when Slurm suspends a job; the rank did not either then.
        """
        gap_s = now_s - self._looked_s
        if gap_s > awake_within_s:
            self._heard_s += gap_s
        self._looked_s = now_s
        if beat is not None and (self.beat is None or beat.sequence != self.beat.sequence):
            self.beat, self._heard_s = beat, now_s
        return max(0.0, now_s - self._heard_s)
