"""How long a run has computed, over all of its attempts, and what is left of its time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hpcjobs.run.files import read_lines
from hpcjobs.run.layout import RunDir


def spent_s(events: Iterable[Any]) -> float:
    """Sums the seconds of a run's attempts from its events.

    An attempt that was killed left no end: it counts to the last thing that it is known to
    have done, so the sum is never too long.

    >>> started, ended = {"kind": "attempt_started"}, {"kind": "attempt_ended"}
    >>> spent_s([{**started, "time": 10.0}, {**ended, "time": 25.0}, {"kind": "x", "time": 90.0}])
    15.0
    """
    total, began, last = 0.0, None, 0.0
    for event in events:
        if not isinstance(event, dict) or not isinstance(event.get("time"), (int, float)):
            continue
        at, kind = float(event["time"]), event.get("kind")
        if began is not None and kind in ("attempt_started", "attempt_ended"):
            end = at if kind == "attempt_ended" else last
            total += max(0.0, end - began)
            began = None
        if kind == "attempt_started":
            began = at
        if kind != "submitted":  # by a person, when the attempt was long gone
            last = at
    return total if began is None else total + max(0.0, last - began)


def left_s(run: RunDir, total_s: float | None) -> float | None:
    """Seconds that a run may still compute; None where its time is not limited."""
    return None if total_s is None else total_s - spent_s(read_lines(run.events))
