"""Constants that were fitted without a model family, as benchmarks/accuracy/refit.py wrote them."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from planner.memory.overhead import CONSTANTS as MEMORY
from planner.memory.overhead import Constants as MemoryConstants
from planner.time.constants import DEFAULT as TIME
from planner.time.constants import Constants as TimeConstants

TABLE = Path(__file__).with_name("constants.json")


def memory_without(family: str) -> MemoryConstants:
    """Of the overhead; the shipped ones where no row of the family was used."""
    values = _table().get("memory", {}).get(family)
    return MEMORY if values is None else MemoryConstants(**values)


def time_without(family: str) -> TimeConstants:
    """Of the time model, likewise."""
    values = _table().get("time", {}).get(family)
    return TIME if values is None else TimeConstants(**values)


@cache
def _table() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(TABLE.read_text("utf-8")) if TABLE.exists() else {}
    return found
