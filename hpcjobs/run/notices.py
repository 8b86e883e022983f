"""The announcements that a job is to end, noted by a handler and read by a loop."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
FORCE_SIGNAL = signal.SIGUSR1
"""Broker to agent: the lead time is used up. In a training process it dumps the stacks."""


class Notices:
    """Notes the stop signals; nothing else, such as a save, happens inside a signal handler.

    Broker, agent and training process listen alike. Whoever starts one of them holds the
    signals back with ``blocked`` until it listens.
    """

    first_s: float | None
    """When the first stop signal came, on the monotonic clock; None before."""

    def __init__(self) -> None:
        """Installs the handlers in the main thread, then lets in what was held back."""
        self.received: list[str] = []
        self.first_s: float | None = None
        self.forced = False
        for number in STOP_SIGNALS:
            signal.signal(number, self._note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def listen_for_force(self) -> None:
        """Notes the broker's word that the lead time is used up too; for agents alone."""
        signal.signal(FORCE_SIGNAL, self._note_force)

    @property
    def stop(self) -> bool:
        """Whether any stop signal has come."""
        return bool(self.received)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.first_s is None:
            self.first_s = time.monotonic()
        self.received.append(signal.Signals(number).name)

    def _note_force(self, _number: int, _frame: FrameType | None) -> None:
        self.forced = True


@contextmanager
def blocked() -> Iterator[None]:
    """Blocks the stop signals while a child is started.

    The child inherits the mask, so a signal that comes before it has installed its own
    handlers waits for it instead of killing it.
    """
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
