"""What a process sees of its card; without importing torch, which may not be there yet."""

import sys
from typing import Any


def _torch() -> Any:  # noqa: ANN401
    """Torch, where the process has imported it and uses a card; None otherwise."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    return torch if cuda is not None and cuda.is_initialized() else None


def card_memory() -> tuple[int, int, int]:
    """Bytes allocated, reserved and in all; zeros without a card in use."""
    torch = _torch()
    if torch is None:
        return (0, 0, 0)
    cuda = torch.cuda
    card_bytes = cuda.get_device_properties(cuda.current_device()).total_memory
    return (cuda.memory_allocated(), cuda.memory_reserved(), card_bytes)


class CardClock:
    """Times the forward passes on the card, whose work the program only queues.

    The events of a lap are read when the next begins: the loop has waited for the loss by then.
    """

    def __init__(self) -> None:
        self._pairs: list[tuple[Any, Any]] = []
        self._began: Any = None

    def start(self) -> None:
        """A forward pass begins."""
        self._began = _recorded_event()

    def stop(self, host_s: float) -> float:
        """A forward pass has been queued; returns its seconds where there is no card to time."""
        if self._began is None:
            return host_s
        self._pairs.append((self._began, _recorded_event()))
        self._began = None
        return 0.0

    def lap_s(self) -> float:
        """Seconds of the forward passes that the card has finished."""
        done, self._pairs = self._pairs, []
        return sum(float(a.elapsed_time(b)) / 1000.0 for a, b in done if b and b.query())


def _recorded_event() -> Any:  # noqa: ANN401
    torch = _torch()
    if torch is None:
        return None
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
