"""Where a build stands: the stage that its program is in, and for how long."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.status import Status

# What Apptainer and SingularityCE print when a stage begins.
_STAGES = (
    (re.compile(r"INFO:\s+Starting build"), "fetching the base system"),
    (re.compile(r"INFO:\s+Running post scriptlet"), "installing packages"),
    (re.compile(r"INFO:\s+Running testscript"), "testing"),
    (re.compile(r"INFO:\s+Creating (SIF file|sandbox)"), "packing"),
)


def stage_of(line: str) -> str | None:
    """The stage that a line of a build begins; None for all others.

    >>> stage_of("INFO:    Creating SIF file...")
    'packing'
    """
    return next((stage for pattern, stage in _STAGES if pattern.match(line)), None)


class BuildProgress:
    """Shows stage, time and log: one changing line on a terminal, one line a stage elsewhere."""

    def __init__(
        self, console: Console, log: Path, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begins to count at once.

        Args:
            console: where it is shown.
            log: named beside the stage, for whoever wants to see more.
            clock: in seconds.
        """
        self.current = "starting"
        self._console, self._log, self._clock = console, log, clock
        self._started = clock()
        self._status: Status | None = None

    @contextmanager
    def shown(self) -> Iterator[Self]:
        """Shows it until the build ends."""
        if not self._console.is_terminal:
            self._console.print(f"log: {self._log}", markup=False, soft_wrap=True)
            yield self
            return
        with self._console.status(self) as self._status:
            yield self

    def stage(self, stage: str) -> None:
        """Says that the build has come to a stage; the same again is no news."""
        if stage == self.current:
            return
        self.current = stage
        if self._status is None:
            self._console.print(f"{self.elapsed} {stage}", markup=False)

    @property
    def elapsed(self) -> str:
        """Minutes and seconds since the start."""
        return "{:.0f}:{:02.0f}".format(*divmod(int(self._clock() - self._started), 60))

    def __rich__(self) -> str:
        """The line on a terminal; rich asks for it at every refresh, so that the time runs."""
        log = str(self._log).replace("[", r"\[")
        return f"{self.current} ({self.elapsed}), log: {log}"
