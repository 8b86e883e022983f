"""The request to stop: a flag set by a signal, agreed by all ranks at a step boundary."""

import signal
from types import FrameType

import torch
from torch import distributed as dist

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2)


class StopFlag:
    """Remembers that a stop signal came; nothing is saved inside a signal handler."""

    def __init__(self) -> None:
        """Installs the handlers, then lets signals in that the node agent held back."""
        self.signal_name: str | None = None
        for number in STOP_SIGNALS:
            signal.signal(number, self._note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    @property
    def is_set(self) -> bool:
        """Whether this process has been asked to stop."""
        return self.signal_name is not None

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal_name = self.signal_name or signal.Signals(number).name


def agree(flags: tuple[bool, ...], device: torch.device) -> tuple[bool, ...]:
    """Returns for each flag whether any rank has raised it: one MAX all-reduce of small ints.

    A rank that acted on its own flag would leave the others waiting in the next collective.
    """
    votes_F = torch.tensor([int(flag) for flag in flags], dtype=torch.int32, device=device)
    dist.all_reduce(votes_F, op=dist.ReduceOp.MAX)
    return tuple(bool(vote) for vote in votes_F.tolist())
