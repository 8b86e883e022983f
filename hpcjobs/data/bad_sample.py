"""Samples that cannot be trained on: counted, named, and never swallowed."""

from collections.abc import Sequence
from dataclasses import dataclass

from hpcjobs.run.errors import InputError

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class BadSample:
    """One sample that is left out, and why."""

    index: int
    """Position in the JSON list."""
    id: str
    reason: str


def refuse_too_many(bad: Sequence[BadSample], limit: int, what: str) -> None:
    """Stops a run whose data has more broken samples than it allows.

    Raises:
        InputError: the count, the first few with their reasons, and the remedy.
    """
    if len(bad) <= limit:
        return
    named = "; ".join(
        f"{sample.id} (number {sample.index}): {sample.reason}" for sample in bad[:_SHOWN]
    )
    more = f"; and {len(bad) - _SHOWN} more, all in data_check.json" if len(bad) > _SHOWN else ""
    raise InputError(
        f"{len(bad)} of the {what} samples cannot be used (allowed: {limit}): {named}{more}; "
        f"mend them, or leave them out with data.bad_samples_max={len(bad)}"
    )
