"""From JSON values to the dataclasses of a plan, strictly.

Figures are declared as ``Quantity``, a number or an array, which msgspec cannot decode; in a file
every figure is one number, or null where it was not finite.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Hashable, Mapping
from functools import cache
from typing import Any, Literal

import msgspec
import numpy as np

from planner.errors import PlannerError


def build(cls: type[Any], raw: object, where: str) -> Any:  # noqa: ANN401 - an instance of cls
    """Builds a dataclass; unknown, missing and mistyped fields are errors.

    Raises:
        PlannerError: names the field.
    """
    if not isinstance(raw, Mapping):
        raise PlannerError(f"{where} must be an object, not {type(raw).__name__}")
    hints = _hints(typing.cast("Hashable", cls))
    if unknown := sorted(set(raw) - set(hints)):
        raise PlannerError(f"{where} has the unknown field {unknown[0]}")
    needed = {field.name for field in dataclasses.fields(cls) if _is_needed(field)}
    if missing := sorted(needed - set(raw)):
        raise PlannerError(f"{where} lacks the field {missing[0]}")
    return cls(**{name: _value(hints[name], raw[name], f"{where}.{name}") for name in raw})


@cache
def _hints(cls: Hashable) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _is_needed(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _value(hint: Any, raw: object, where: str) -> Any:  # noqa: ANN401
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _one_of(args, raw, where)
    if origin is tuple:
        if not isinstance(raw, list):
            raise PlannerError(f"{where} must be a list, not {type(raw).__name__}")
        return tuple(_value(args[0], item, f"{where}[{i}]") for i, item in enumerate(raw))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(raw, Mapping):
            raise PlannerError(f"{where} must be an object, not {type(raw).__name__}")
        return {str(key): _value(args[1], item, f"{where}.{key}") for key, item in raw.items()}
    if dataclasses.is_dataclass(hint):
        return build(typing.cast("type[Any]", hint), raw, where)
    return _leaf(hint, raw, where)


def _one_of(args: tuple[Any, ...], raw: object, where: str) -> Any:  # noqa: ANN401
    if raw is None and type(None) in args:
        return None
    if any(typing.get_origin(arg) is np.ndarray for arg in args):
        return math.nan if raw is None else _value(float, raw, where)
    return _value(next(arg for arg in args if arg is not type(None)), raw, where)


def _leaf(hint: Any, raw: object, where: str) -> Any:  # noqa: ANN401
    """Plain values, choices of words, and the workload with its own strict schema."""
    if hint is Any:
        return raw
    if typing.get_origin(hint) is Literal and raw not in typing.get_args(hint):
        raise PlannerError(f"{where} must be one of {', '.join(typing.get_args(hint))}")
    try:
        return msgspec.convert(raw, hint)
    except msgspec.ValidationError as error:
        raise PlannerError(f"{where}: {error}") from error
