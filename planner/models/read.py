"""From a preset's name, a path or the content of a ``config.json`` to an architecture."""

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from planner.architecture import Architecture
from planner.errors import PlannerError
from planner.models.assemble import text_only
from planner.models.assumed import assumed_sizes, refuse_misspelt
from planner.models.counted import COUNT_FILE, architecture_from_count, refuse_other_layers
from planner.models.encoders import ENCODERS
from planner.models.fields import Fields, Seen, defaults_of
from planner.models.internvl import internvl, internvl_chat
from planner.models.llava import (
    gemma3,
    llava,
    llava_next,
    llava_onevision,
    llava_original,
    paligemma,
)
from planner.models.mgm import mgm
from planner.models.presets import is_preset, preset, unknown_model
from planner.models.qwen_vl import qwen2_vl, qwen_vl
from planner.models.resamplers import blip2, minicpm_v
from planner.models.texts import RECIPES, language_model
from planner.models.unknown import UnknownFamilyError, unknown_family

_CONFIG = "config.json"
_LONGEST_NAME, _SHOWN = 4096, 60
_NO_DECODERS = frozenset(
    {*ENCODERS, "bert", "clip", "convnext", "roberta", "siglip", "t5", "wav2vec2", "whisper"}
)
"""Counting these would not help: the planner predicts decoders, alone or behind towers."""

Reader = Callable[[Fields, str], Architecture]
Known = tuple[Architecture, tuple[str, ...]]
"""A model, and what was assumed about it."""

_MULTIMODAL: Mapping[str, Reader] = MappingProxyType(
    {
        "blip-2": blip2,
        "gemma3": gemma3,
        "internvl": internvl,
        "internvl_chat": internvl_chat,
        "llava": llava,
        "llava_llama": llava_original,
        "llava_mistral": llava_original,
        "llava_next": llava_next,
        "llava_onevision": llava_onevision,
        "llava_qwen": llava_original,
        "mgm": mgm,
        "mgm_gemma": mgm,
        "mgm_mistral": mgm,
        "mgm_mixtral": mgm,
        "mini_gemini": mgm,
        "minicpmv": minicpm_v,
        "paligemma": paligemma,
        "qwen2_5_vl": qwen2_vl,
        "qwen2_vl": qwen2_vl,
    }
)


def architecture_of(model: str | Mapping[str, object]) -> Architecture:
    """Reads a model: a preset's name, the path of a ``config.json`` or its directory, or content.

    Where the ``model_type`` is unknown, ``planner_count.json`` beside the ``config.json`` is
    taken, if it is there; the architecture's name says so.

    Raises:
        UnknownFamilyError: the ``model_type`` is unknown and was not counted.
        PlannerError: no such preset or file, no JSON object, or dimensions that are missing or
            impossible.

    >>> architecture_of("gemma-2b").parameters
    2506172416
    """
    return _known(model)[0]


def assumptions_of(model: str | Mapping[str, object]) -> tuple[str, ...]:
    """What was assumed to read a model: sizes that its config leaves to its family's defaults.

    Raises:
        PlannerError: as ``architecture_of`` does.

    >>> assumptions_of({"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12})
    ('vocab_size, n_positions taken from the defaults of gpt2',)
    """
    return _known(model)[1]


def _known(model: str | Mapping[str, object]) -> Known:
    if isinstance(model, str):
        return _of_name(model)
    if not isinstance(model, Mapping):
        raise PlannerError(f"model must be a name, a path or an object, not {model!r}")
    try:
        return _of_text(json.dumps(model, sort_keys=True), None)
    except (TypeError, ValueError, RecursionError) as error:
        raise PlannerError(f"the model's config is no JSON: {error}") from error


def known_model_types() -> tuple[str, ...]:
    """Every ``model_type`` that is read without torch."""
    return tuple(sorted({*RECIPES, *_MULTIMODAL}))


def _of_name(name: str) -> Known:
    if is_preset(name):
        return _of_preset(name.lower()), ()
    if not name.strip():
        raise PlannerError("model is empty: write a preset's name, or the path of a config.json")
    if len(name) > _LONGEST_NAME:
        raise PlannerError(f"model {name[:_SHOWN]!r}... is neither a preset nor a path")
    path = Path(name).expanduser()
    try:
        if path.is_dir() and not (path / _CONFIG).is_file():
            raise PlannerError(f"{name} has no {_CONFIG}: name the directory of a model")
        path = path / _CONFIG if path.is_dir() else path
        if not path.is_file():
            raise PlannerError(unknown_model(name))
        return _of_file(path)
    except OSError as error:
        raise PlannerError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise PlannerError(f"{name!r} is no path and no text file: {error}") from error


def _of_file(path: Path) -> Known:
    """Reads a ``config.json``; an unknown family's counts may lie beside it."""
    text = path.read_text("utf-8")
    try:
        return _of_text(text, str(path))
    except UnknownFamilyError:
        count = path.with_name(COUNT_FILE)
        # A count that failed leaves an empty file behind: the shell makes it first.
        if not count.is_file() or not count.stat().st_size:
            raise
    counted = architecture_from_count(_object(count.read_text("utf-8"), str(count)))
    model_type = _object(text, str(path)).get("model_type")
    if counted.family != model_type:
        raise PlannerError(
            f"{count} counts {counted.family!r}, but {path} is {model_type!r}: count it again"
        )
    refuse_other_layers(counted)
    return counted, ()


@lru_cache(maxsize=256)
def _of_preset(name: str) -> Architecture:
    return _read(preset(name), name, Seen())


@lru_cache(maxsize=256)
def _of_text(text: str, path: str | None) -> Known:
    where = path or "the model's config"
    content, seen = _object(text, where), Seen()
    try:
        architecture = _read(content, None, seen)
        if path is None:
            refuse_misspelt(content, seen)
    except PlannerError as error:
        raise type(error)(f"{where}: {error}") from error
    return architecture, assumed_sizes(seen)


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PlannerError(f"{where} is no valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise PlannerError(f"{where} must be a JSON object, not {type(content).__name__}")
    return content


def _read(content: Mapping[str, Any], name: str | None, seen: Seen) -> Architecture:
    model_type = content.get("model_type")
    if not isinstance(model_type, str):
        raise PlannerError("model_type is missing: it names the family, such as llama")
    fields = Fields(content, model_type, defaults_of(model_type), seen=seen)
    if model_type in _MULTIMODAL:
        return _MULTIMODAL[model_type](fields, name or model_type)
    if model_type == "qwen" and fields.has("visual"):
        return qwen_vl(fields, name or "qwen_vl")
    if model_type in RECIPES:
        return text_only(name or model_type, language_model(fields))
    if model_type in _NO_DECODERS:
        raise PlannerError(f"model_type {model_type!r} is no language model, nor one with towers")
    raise unknown_family("model_type", model_type, known_model_types())
