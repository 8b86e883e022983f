"""Sizes that a config leaves to its family's defaults, and keys that are probably misspelt."""

import difflib
from collections.abc import Mapping
from typing import Any

from planner.errors import PlannerError
from planner.models.fields import Seen

_ALIKE = 0.85
"""Below it two keys are two words: no pair of keys of transformers' configurations comes near."""


def assumed_sizes(seen: Seen) -> tuple[str, ...]:
    """One sentence a family: which sizes its defaults gave.

    >>> assumed_sizes(Seen(assumed={("", "vocab_size"): "llama"}))
    ('vocab_size taken from the defaults of llama',)
    """
    by_family: dict[str, list[str]] = {}
    for (path, key), family in seen.assumed.items():
        by_family.setdefault(family, []).append(f"{path}.{key}" if path else key)
    return tuple(
        f"{', '.join(keys)} taken from the defaults of {family}"
        for family, keys in by_family.items()
    )


def refuse_misspelt(content: Mapping[str, Any], seen: Seen) -> None:
    """Refuses a key that no reader knows where a size is missing that is spelt nearly so.

    Other unknown keys are welcome: a ``config.json`` holds many that do not bear on sizes.

    Raises:
        PlannerError: names the key, and the one that was meant.
    """
    for path, key in seen.assumed:
        section = _section(content, path)
        unread = [str(name) for name in section if (path, name) not in seen.keys]
        for near in difflib.get_close_matches(key, unread, n=1, cutoff=_ALIKE):
            where = f"{path}." if path else ""
            raise PlannerError(f"unknown field {where}{near}; did you mean '{key}'?")


def _section(content: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    for name in path.split(".") if path else ():
        inner = content.get(name)
        content = inner if isinstance(inner, Mapping) else {}
    return content
