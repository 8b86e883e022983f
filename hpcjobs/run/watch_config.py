"""How long a training process may be silent, and what raises an alarm; read on the nodes too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from hpcjobs.run.checks import above, at_least
from hpcjobs.run.errors import ConfigError


@dataclass(frozen=True)
class WatchSettings:
    """Limits of the watchdogs; times in seconds.

    A process that is silent for longer than the limit of its phase hangs. Within the training
    loop that is ``hang_s`` or ``hang_factor`` times the median step of the run, whichever is
    longer; every other phase has a limit of its own.
    """

    hang_s: float | None = 600.0
    """Silence within a step that no run takes for work; null never ends a run for silence."""
    hang_factor: float = 10.0
    """Silence within a step, in median steps of this run."""
    start_s: float = 1800.0
    """Imports, and the first steps, which may compile: three laps of the loop."""
    load_s: float = 3600.0
    """Reading and checking data, weights and the checkpoint."""
    save_s: float = 3600.0
    """Writing a checkpoint."""
    heldout_s: float = 3600.0
    """One batch of the held-out measurement."""
    export_s: float = 3600.0
    """Writing the result."""
    alarms: bool = True
    """Alarms are said and never end anything."""
    gpu_idle_percent: float = 5.0
    """A card that was never busier than this for the whole window is idle."""
    data_wait_share: float = 0.3
    """More of the time spent waiting for data than this."""
    straggler_factor: float = 1.2
    """A rank that computes this much longer than the median rank."""
    window_s: float = 600.0
    """The time that alarms look back."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        above("hang_s", self.hang_s, 0)
        at_least("hang_factor", self.hang_factor, 2)
        for name in ("start_s", "load_s", "save_s", "heldout_s", "export_s", "window_s"):
            above(name, getattr(self, name), 0)
        above("straggler_factor", self.straggler_factor, 1)
        for name, highest in (("gpu_idle_percent", 100), ("data_wait_share", 1)):
            at_least(name, getattr(self, name), 0)
            if getattr(self, name) > highest:
                raise ConfigError(f"{name} must be at most {highest}")


def read_settings(raw: Mapping[str, Any]) -> WatchSettings:
    """The settings from their JSON form; keys of another version are passed over."""
    known = {field.name for field in fields(WatchSettings)}
    return WatchSettings(**{key: value for key, value in raw.items() if key in known})
