"""Plans as JSON files: written beside a run, sent to an approver, read back strictly."""

import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from planner.errors import PlannerError
from planner.output_file import replace_file
from planner.plan import PLAN_VERSION, Plan
from planner.plan_fields import build


def write_plan(plan: Plan, path: Path) -> None:
    """Replaces ``path`` by the plan in one step, readable by the owner only.

    Raises:
        PlannerError: the file cannot be written, or the name is that of a device or directory.
    """
    replace_file(path, encode_plan(plan))


def encode_plan(plan: Plan) -> bytes:
    """The plan as indented JSON; numbers that are not finite become null."""
    plain = msgspec.to_builtins(plan, enc_hook=_plain)
    return (json.dumps(_finite(plain), indent=2, ensure_ascii=False) + "\n").encode()


def read_plan(path: Path) -> Plan:
    """Reads what ``write_plan`` wrote.

    Raises:
        PlannerError: no such file, no plan, or one of another version.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise PlannerError(f"{path} is no file: name a plan.json of python -m planner")
        return decode_plan(path.read_bytes(), str(path))
    except OSError as error:
        raise PlannerError(f"cannot read {path}: {error.strerror}") from error


def decode_plan(content: bytes, where: str) -> Plan:
    """A plan out of JSON; unknown versions and broken files are refused.

    Args:
        content: what ``encode_plan`` made.
        where: the file's name, for messages.

    Raises:
        PlannerError: no plan, or one of another version.
    """
    try:
        raw = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PlannerError(f"{where} is no plan: {error}") from error
    if not isinstance(raw, Mapping) or "version" not in raw:
        raise PlannerError(f"{where} is no plan: write one with python -m planner ... plan=FILE")
    if raw["version"] != PLAN_VERSION:
        raise PlannerError(
            f"{where} is a plan of version {raw['version']!r}, this planner reads "
            f"{PLAN_VERSION}: plan again"
        )
    plan: Plan = build(Plan, raw, where)
    return plan


def _plain(value: Any) -> Any:  # noqa: ANN401 - numpy scalars have no narrower type
    """Numbers of numpy as those of Python."""
    return value.tolist()


def _finite(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not -float("inf") < value < float("inf"):
        return None
    return value
