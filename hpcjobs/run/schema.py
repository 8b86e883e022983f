"""Turns plain mappings into frozen dataclasses, strictly, and says what to write instead."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from hpcjobs.run.errors import ConfigError

T = TypeVar("T")


def build(cls: type[T], raw: object, where: str = "") -> T:
    """Builds the dataclass ``cls`` from a mapping, checking every key and type on the way.

    Args:
        cls: a dataclass whose fields are scalars, ``Literal``s, optionals, tuples,
            mappings with string keys, or further dataclasses.
        raw: the mapping to read.
        where: dotted path of ``raw`` in the configuration, for messages.

    Raises:
        ConfigError: an unknown key (with the nearest known one), a missing key without
            a default, or a value of the wrong type.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Optim:
    ...     lr: float
    >>> build(Optim, {"lr": 1})
    Optim(lr=1.0)
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where or 'the configuration'} must be a mapping, not {_show(raw)}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in raw:
        if key not in fields:
            raise ConfigError(
                f"unknown key {_join(where, str(key))}{did_you_mean(str(key), fields)}"
            )
    values = {}
    for name, field in fields.items():
        if name in raw:
            values[name] = _convert(hints[name], raw[name], _join(where, name))
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{_join(where, name)} is not set: write {_join(where, name)}=VALUE")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}" if where else str(error)) from None


def did_you_mean(word: str, known: typing.Iterable[str]) -> str:
    """Returns ``; did you mean 'x'?`` for the nearest known word, else the list of known ones.

    >>> did_you_mean("lrr", ["lr", "steps"])
    "; did you mean 'lr'?"
    """
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known here: {', '.join(names)}" if names else ""


def plain(value: object) -> Any:  # noqa: ANN401 - JSON values have no narrower type
    """Turns dataclasses and tuples into what ``json`` writes, the inverse of ``build``."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _convert(hint: Any, raw: Any, where: str) -> Any:  # noqa: ANN401
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(hint, raw, where)
    if origin is Literal:
        return _convert_literal(hint, raw, where)
    if origin is tuple:
        return _convert_tuple(hint, raw, where)
    if origin in (dict, Mapping):
        return _convert_mapping(hint, raw, where)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast("type[Any]", hint), raw, where)
    if hint is float and isinstance(raw, int) and not isinstance(raw, bool):
        return _convert_integer(raw, where)
    if type(raw) is hint:
        return raw
    remedy = f"; write it as text: '{where}=\"{raw}\"'" if hint is str and _is_scalar(raw) else ""
    raise ConfigError(f"{where} must be {_name(hint)}, not {_show(raw)}{remedy}")


def _is_scalar(raw: object) -> bool:
    return isinstance(raw, bool | int | float)


def _convert_union(hint: Any, raw: Any, where: str) -> Any:  # noqa: ANN401
    options = typing.get_args(hint)
    if raw is None and type(None) in options:
        return None
    real = [option for option in options if option is not type(None)]
    if len(real) == 1:
        return _convert(real[0], raw, where)
    for option in real:
        if type(raw) is option or _is_word_of(option, raw):
            return raw
    if float in real and type(raw) is int:
        return _convert_integer(raw, where)
    raise ConfigError(f"{where} must be {' or '.join(map(_name, options))}, not {_show(raw)}")


def _is_word_of(option: Any, raw: object) -> bool:  # noqa: ANN401
    is_literal = typing.get_origin(option) is Literal
    words = typing.get_args(option) if is_literal else ()
    return any(type(raw) is type(word) and raw == word for word in words)


def _convert_integer(raw: int, where: str) -> float:
    try:
        return float(raw)
    except OverflowError:
        raise ConfigError(f"{where} must be a number that fits into 64 bits") from None


def _convert_literal(hint: Any, raw: Any, where: str) -> Any:  # noqa: ANN401
    allowed = typing.get_args(hint)
    for value in allowed:
        if type(raw) is type(value) and raw == value:
            return raw
    near = did_you_mean(str(raw), map(str, allowed)) if isinstance(raw, str) else ""
    nearest = near if near.startswith("; did") else ""
    choice = ", ".join(map(str, allowed))
    raise ConfigError(f"{where} must be one of {choice}, not {_show(raw)}{nearest}")


def _convert_tuple(hint: Any, raw: Any, where: str) -> tuple[Any, ...]:  # noqa: ANN401
    if not isinstance(raw, list | tuple):
        raise ConfigError(f"{where} must be a list, not {_show(raw)}")
    item = typing.get_args(hint)[0]
    return tuple(_convert(item, value, f"{where}[{i}]") for i, value in enumerate(raw))


def _convert_mapping(hint: Any, raw: Any, where: str) -> dict[str, Any]:  # noqa: ANN401
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where} must be a mapping, not {_show(raw)}")
    item = typing.get_args(hint)[1]
    return {str(key): _convert(item, value, _join(where, str(key))) for key, value in raw.items()}


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _name(hint: Any) -> str:  # noqa: ANN401
    words = {int: "an integer", float: "a number", str: "text", bool: "true or false"}
    if hint is type(None):
        return "null"
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(str, typing.get_args(hint)))
    return words.get(hint, getattr(hint, "__name__", str(hint)))


def _show(raw: object) -> str:
    return f"{raw!r} ({type(raw).__name__})"
