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
        name = str(item.get("id", index)) if isinstance(item, dict) else str(index)
        try:
            samples.append(_sample(index, name, item))
        except InputError as error:
            bad.append(BadSample(index, name, str(error)))
    return samples, bad


def _read_list(path: Path) -> list[Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} is not JSON: {error.msg} in line {error.lineno}, column {error.colno}"
        ) from error
    if not isinstance(raw, list) or not raw:
        raise InputError(f"{path} must hold a JSON list of samples, and not an empty one")
    return raw


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
    if value is None or isinstance(value, str):
        return value
    raise InputError(f"image must be a path, not {value!r}")


def _turn(turn: object) -> Turn:
    if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
        raise InputError('a turn must be {"from": ..., "value": TEXT}')
    speaker = turn.get("from")
    if speaker not in _SPEAKERS:
        raise InputError(f"a turn is from {speaker!r}, not from human or gpt")
    return Turn(_SPEAKERS[str(speaker)], turn["value"])
