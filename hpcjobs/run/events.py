"""What happened to a run, in order, one JSON object a line."""

from __future__ import annotations

import time
from typing import Any

from hpcjobs.run.files import append_line
from hpcjobs.run.layout import RunDir


def record_event(run: RunDir, kind: str, **fields: Any) -> None:  # noqa: ANN401
    """Appends an event with the wall-clock time (Unix seconds) to the run's ``events.jsonl``."""
    append_line(run.events, {"time": round(time.time(), 3), "kind": kind, **fields})
