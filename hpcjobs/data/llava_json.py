"""Reads the LLaVA/MGM JSON format: a list of conversations, each with at most one picture."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hpcjobs.data.bad_sample import BadSample
from hpcjobs.run.errors import InputError

PLACEHOLDER = "<image>"
_SPEAKERS: dict[str, Literal["human", "gpt"]] = {
    "human": "human",
    "user": "human",
    "gpt": "gpt",
    "assistant": "gpt",
}


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says."""

    speaker: Literal["human", "gpt"]
    text: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One conversation."""

    index: int
    id: str
    picture: str | None
    """Path relative to the picture directory."""
    turns: tuple[Turn, ...]


def read_samples(path: Path) -> tuple[list[Sample], list[BadSample]]:
    """Reads a JSON list of samples; malformed ones come back apart, with the reason.

    Raises:
        InputError: the file is missing, is not JSON, or is not a list of samples.
    """
    raw = _read_list(path)
    samples, bad = [], []
    for index, item in enumerate(raw):
        name = _name(index, item)
        try:
            samples.append(_sample(index, name, item))
        except InputError as error:
            bad.append(BadSample(index, name, str(error)))
    return samples, bad


def _read_list(path: Path) -> list[Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror}; set data.root or mend it"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text: byte {error.start}; save it as UTF-8"
        ) from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} is not JSON: {error.msg} in line {error.lineno}, column {error.colno}; "
            f"mend it there"
        ) from error
    except RecursionError as error:
        raise InputError(f"{path} is nested too deeply to be a list of samples") from error
    if not isinstance(raw, list) or not raw:
        what = "an empty list" if raw == [] else type(raw).__name__
        raise InputError(f"{path} must hold a JSON list of samples, not {what}: see docs/data.md")
    return raw


def _name(index: int, item: object) -> str:
    """The sample's id, fit for a one-line message; without one its position."""
    name = str(item.get("id", index)) if isinstance(item, dict) else str(index)
    return " ".join(name.encode("utf-8", "replace").decode().split())


def _sample(index: int, name: str, item: object) -> Sample:
    if not isinstance(item, dict):
        raise InputError(f"a sample must be an object, not {type(item).__name__}")
    turns = item.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise InputError("it has no conversations")
    return Sample(index, name, _picture(item.get("image")), tuple(_turn(turn) for turn in turns))


def _picture(value: object) -> str | None:
    if isinstance(value, list):
        if len(value) > 1:
            raise InputError(f"it has {len(value)} pictures; MGM takes one")
        value = value[0] if value else None
    if value is None:
        return None
    if not isinstance(value, str):
        raise InputError(f"image must be a path, not {value!r}")
    return _text(value)


def _turn(turn: object) -> Turn:
    if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
        raise InputError('a turn must be {"from": ..., "value": TEXT}')
    speaker = turn.get("from")
    if not isinstance(speaker, str) or speaker not in _SPEAKERS:
        raise InputError(f"a turn is from {speaker!r}, not from human or gpt")
    return Turn(_SPEAKERS[speaker], _text(turn["value"]))


def _text(value: str) -> str:
    """Refuses halves of surrogate pairs: JSON can write them, no tokenizer or disk takes them."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"its text is no Unicode at character {error.start}") from None
    return value
