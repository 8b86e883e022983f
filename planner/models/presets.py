"""Presets: the content of well-known models' ``config.json``, by name."""

import difflib
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from planner.errors import PlannerError

_ENDINGS = re.compile(r"(-(hf|chat|instruct|base|it|v\d+(\.\d+)*))+$")
_DIRECTORY = Path(__file__).parents[1] / "presets"


@cache
def preset_names() -> tuple[str, ...]:
    """All names, in order."""
    return tuple(sorted(path.stem for path in _DIRECTORY.glob("*.json")))


def is_preset(name: str) -> bool:
    """Whether a preset has this name, in any case."""
    return name.lower() in preset_names()


@cache
def preset(name: str) -> dict[str, Any]:
    """The content of a preset; its name may be written in any case.

    Raises:
        PlannerError: there is none of this name.
    """
    if not is_preset(name):
        raise PlannerError(unknown_model(name))
    content: dict[str, Any] = json.loads((_DIRECTORY / f"{name.lower()}.json").read_text("utf-8"))
    return content


def unknown_model(name: str) -> str:
    """Says what to write instead of a name that is neither preset nor path.

    The owner before a slash, and endings that change no size, are left out of the comparison.

    >>> unknown_model("meta-llama/Llama-2-7b-hf").partition("; ")[2]
    'did you mean llama-2-7b or llama-2-70b or llama-7b?'
    """
    stem = _ENDINGS.sub("", name.lower().rpartition("/")[2])
    near = difflib.get_close_matches(stem, preset_names(), n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "docs/models.md lists the presets"
    return f"model {name!r} is neither a preset nor a path to a config.json; {hint}"
