"""The fields of one ``config.json`` section: checked, with transformers' defaults behind them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from planner.errors import PlannerError

_DEFAULTS = Path(__file__).with_name("defaults.json")
_LARGEST = 10_000_000
"""No width, vocabulary or count of a real model is above this."""


@cache
def _table() -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = json.loads(_DEFAULTS.read_text("utf-8"))
    return table


def defaults_of(model_type: str) -> Mapping[str, Any]:
    """What transformers' configuration class of this type fills in; empty where it has none."""
    return MappingProxyType(_table().get(model_type, {}))


@dataclass(frozen=True, slots=True)
class Seen:
    """What a reader has asked one config for; sections are named by their path."""

    keys: set[tuple[str, str]] = field(default_factory=set)
    """Section and key of all that was asked."""
    assumed: dict[tuple[str, str], str] = field(default_factory=dict)
    """Section and key of sizes that the config leaves out, to the family whose default stands."""


@dataclass(frozen=True, slots=True)
class Fields:
    """One section of a ``config.json``: what it says, else what transformers would say."""

    raw: Mapping[str, Any]
    model_type: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    path: str = ""
    """Where the section lies, such as ``vision_config``; empty at the top."""
    seen: Seen = field(default_factory=Seen, compare=False, repr=False)
    """Shared by all sections of one config."""

    def has(self, key: str) -> bool:
        """Whether the section or the defaults give a value that is not null."""
        return self.get(key) is not None

    def get(self, key: str) -> object:
        """The value as it stands, or None."""
        self.seen.keys.add((self.path, key))
        return self.raw[key] if key in self.raw else self.defaults.get(key)

    def where(self, key: str) -> str:
        """The key with its section, for messages."""
        return f"{self.path}.{key}" if self.path else key

    def size(self, key: str, *, most: int = _LARGEST) -> int:
        """A positive whole number.

        Raises:
            PlannerError: it is missing, no whole number, below one or above ``most``.
        """
        value = self.get(key)
        if value is None:
            raise PlannerError(f"{self.where(key)} is missing in this {self.model_type} config")
        if key not in self.raw:
            self.seen.assumed[self.path, key] = self.model_type
        return self._whole(key, value, 1, most)

    def size_or(self, key: str, fallback: int) -> int:
        """A positive whole number, or the fallback where it is missing or null.

        Raises:
            PlannerError: it is no whole number, or below one.
        """
        return self.size(key) if self.has(key) else fallback

    def count_or(self, key: str, fallback: int) -> int:
        """A whole number of at least zero, or the fallback where it is missing or null.

        Raises:
            PlannerError: it is no whole number, or below zero.
        """
        value = self.get(key)
        return fallback if value is None else self._whole(key, value, 0, _LARGEST)

    def number_or(self, key: str, fallback: float) -> float:
        """A number above zero, or the fallback.

        Raises:
            PlannerError: it is no number above zero.
        """
        value = self.get(key)
        if value is None:
            return fallback
        if isinstance(value, int | float) and value is not True and 0 < value < _LARGEST:
            return float(value)
        raise PlannerError(f"{self.where(key)} must be a number above 0, not {value!r}")

    def flag(self, key: str, *, fallback: bool = False) -> bool:
        """True or false.

        Raises:
            PlannerError: it is something else.
        """
        value = self.get(key)
        if value is None:
            return fallback
        if not isinstance(value, bool):
            raise PlannerError(f"{self.where(key)} must be true or false, not {value!r}")
        return value

    def text(self, key: str, fallback: str) -> str:
        """A word.

        Raises:
            PlannerError: it is something else.
        """
        value = self.get(key)
        if value is None:
            return fallback
        if not isinstance(value, str):
            raise PlannerError(f"{self.where(key)} must be text, not {value!r}")
        return value

    def sizes(self, key: str) -> tuple[int, ...]:
        """A list of positive whole numbers.

        Raises:
            PlannerError: it is missing or something else.
        """
        value = self.get(key)
        if not isinstance(value, list | tuple) or not value:
            raise PlannerError(f"{self.where(key)} must be a list of sizes, not {value!r}")
        return tuple(self._whole(f"{key}[{i}]", item, 1, _LARGEST) for i, item in enumerate(value))

    def section(self, key: str) -> Mapping[str, Any]:
        """A nested object; empty where it is missing or null.

        Raises:
            PlannerError: it is something else.
        """
        value = self.get(key)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise PlannerError(f"{self.where(key)} must be an object, not {value!r}")
        return value

    def nested(
        self,
        key: str,
        fallback_type: str,
        *,
        fixed: bool = False,
        absent: Mapping[str, object] = MappingProxyType({}),
    ) -> "Fields":
        """The fields of a nested section.

        Args:
            key: of the section.
            fallback_type: its ``model_type`` where it names none.
            fixed: that type whatever it names, as where one class is built for it.
            absent: the section's content where there is none.

        Raises:
            PlannerError: the section is no object, or its ``model_type`` no text.
        """
        raw = self.section(key) if self.has(key) else absent
        model_type = fallback_type if fixed else raw.get("model_type") or fallback_type
        if not isinstance(model_type, str):
            raise PlannerError(f"{self.where(key)}.model_type must be text, not {model_type!r}")
        return Fields(raw, model_type, defaults_of(model_type), self.where(key), self.seen)

    def retyped(self, model_type: str) -> "Fields":
        """The same section read as another type: flat configs of multimodal models."""
        return Fields(self.raw, model_type, defaults_of(model_type), self.path, self.seen)

    def with_defaults(self, defaults: Mapping[str, Any]) -> "Fields":
        """The same section with other defaults in front of its own."""
        return replace(self, defaults={**self.defaults, **defaults})

    def _whole(self, key: str, value: object, least: int, most: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise PlannerError(f"{self.where(key)} must be a whole number, not {value!r}")
        if not least <= value <= most:
            raise PlannerError(f"{self.where(key)} must be in [{least}, {most}], not {value}")
        return value


def require_multiple(of: str, value: int, by: str, divisor: int) -> int:
    """Returns ``value / divisor``.

    Raises:
        PlannerError: it does not divide.
    """
    if value % divisor:
        raise PlannerError(f"{of} ({value}) must be a multiple of {by} ({divisor})")
    return value // divisor
