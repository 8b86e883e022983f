"""From a JSON object to a checked workload: shorthands are spelt out, mistakes named."""

import difflib
import math
import re
import typing
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

import msgspec

from planner.errors import PlannerError
from planner.workload import GradCkpt, Interconnect, Method, Workload

_UNKNOWN = re.compile(r"unknown field `(\w+)`(?: - at `\$\.?(.*)`)?")
_TYPES = {"": Workload, "method": Method, "grad_ckpt": GradCkpt, "interconnect": Interconnect}
_TYPE_NAMES = re.compile(r"`(\w+(?: \| \w+)*)`")
_WORDS = {
    "int": "an integer",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "object": "an object",
    "array": "a list",
    "null": "null",
}
_LARGEST = 10**9
"""No count or length of a real run is above it."""
_DEAREST = 10**6
"""No card costs as much an hour, nor takes an image as many ms, nor has a run as many epochs."""
_SHOWN = 60
# Where a log-normal length distribution is cut into equal shares.
_SHARES = 64


def read_workload(raw: Mapping[str, Any]) -> Workload:
    """Checks one workload and fills in the documented defaults.

    Shorthands: ``method`` and ``grad_ckpt`` may be one word or true/false, ``seq_len`` a number,
    a list of observed lengths, or ``{"mean", "std", "max"}``.

    Raises:
        PlannerError: an unknown field, a wrong type or an impossible value.
    """
    if not isinstance(raw, Mapping):
        raise PlannerError(f"a workload must be a JSON object, not {type(raw).__name__}")
    words = dict(raw)
    if isinstance(words.get("method"), str):
        words["method"] = {"kind": words["method"]}
    if isinstance(words.get("grad_ckpt"), bool):
        ckpt = words["grad_ckpt"]
        words["grad_ckpt"] = {"language_model": ckpt, "towers": ckpt}
    if "seq_len" in words:
        words["seq_len"] = _lengths(words["seq_len"])
    workload = _convert(words)
    _check(workload)
    return workload


def _convert(words: dict[str, Any]) -> Workload:
    try:
        return msgspec.convert(words, Workload, str_keys=True)
    except msgspec.ValidationError as error:
        raise PlannerError(_message(str(error))) from error


def _message(text: str) -> str:
    unknown = _UNKNOWN.search(text)
    if unknown:
        name, where = unknown.group(1), unknown.group(2) or ""
        known = _TYPES.get(where, Workload).__struct_fields__
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"
        return f"unknown field {where + '.' if where else ''}{name}; {hint}"
    what, _, path = text.partition(" - at `$.")
    where = path.rstrip("`")
    what = _TYPE_NAMES.sub(lambda found: _spelt(found.group(1)), what)
    what = what.replace("Object missing required field", "a workload needs the field")
    what = what.replace("Invalid enum value", "no such choice:")
    return f"{where}: {_choices(where, what)}" if where else what


def _spelt(types: str) -> str:
    """Type names in words.

    >>> _spelt("float | null")
    'a number or null'
    """
    return " or ".join(_WORDS.get(name, name) for name in types.split(" | "))


def _choices(where: str, what: str) -> str:
    """Names what a field with fixed words takes."""
    if not what.startswith("no such choice"):
        return what[:1].lower() + what[1:]
    owner, _, name = where.rpartition(".")
    hint = typing.get_type_hints(_TYPES.get(owner, Workload)).get(name)
    return f"{what}; write one of {', '.join(map(str, typing.get_args(hint)))}"


def _lengths(raw: object) -> dict[str, Any]:
    """Spells a length distribution out as values and weights."""
    if isinstance(raw, bool):
        raise PlannerError("seq_len must be a number, a list or an object")
    if isinstance(raw, float):
        raise PlannerError(f"seq_len must be a whole number, not {raw:g}: write {raw:.0f}")
    if isinstance(raw, int):
        return {"values": [raw], "weights": [1.0]}
    if isinstance(raw, list):
        if not raw:
            raise PlannerError("seq_len is an empty list: write at least one length")
        return {"values": raw, "weights": [1 / len(raw)] * len(raw)}
    if isinstance(raw, Mapping) and "mean" in raw:
        return _log_normal(raw)
    if isinstance(raw, Mapping) and "values" in raw:
        return _weighted(raw)
    raise PlannerError(
        'seq_len must be a number, a list of lengths, {"values", "weights"} or '
        '{"mean", "std", "max"}'
    )


def _weighted(raw: Mapping[str, Any]) -> dict[str, Any]:
    _refuse_other_keys(raw, ("values", "weights"))
    values = raw["values"]
    if not isinstance(values, list) or not values:
        raise PlannerError("seq_len.values must be a list of at least one length")
    weights = raw.get("weights", [1.0] * len(values))
    if not isinstance(weights, list) or len(weights) != len(values):
        raise PlannerError("seq_len.weights must be as many as seq_len.values")
    shares = [_positive(f"seq_len.weights[{i}]", weight) for i, weight in enumerate(weights)]
    return {"values": values, "weights": [share / sum(shares) for share in shares]}


def _log_normal(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Lengths are about log-normal; the longest are cut off at ``max``, as trainers do."""
    _refuse_other_keys(raw, ("mean", "std", "max"))
    mean = _positive("seq_len.mean", raw["mean"])
    if mean < 1:
        raise PlannerError(f"seq_len.mean must be at least 1, not {mean:g}")
    std = _positive("seq_len.std", raw.get("std", mean / 2))
    longest = _positive("seq_len.max", raw.get("max", mean + 6 * std))
    sigma = math.sqrt(math.log1p((std / mean) ** 2))
    normal = NormalDist(math.log(mean) - sigma**2 / 2, sigma)
    shares = [(i + 0.5) / _SHARES for i in range(_SHARES)]
    values = [max(1, round(min(longest, math.exp(normal.inv_cdf(share))))) for share in shares]
    return {"values": values, "weights": [1 / _SHARES] * _SHARES}


def _refuse_other_keys(raw: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in raw:
        if key not in known:
            raise PlannerError(f"unknown field seq_len.{key}; known here: {', '.join(known)}")


def _positive(name: str, value: object, most: float = _LARGEST) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise PlannerError(f"{name} must be a number above 0, not {_short(value)}")
    if value > most:
        raise PlannerError(f"{name} must be at most {most:g}, not {_short(value)}")
    return float(value)


def _short(value: object) -> str:
    """A value as it may stand in a message of one line."""
    text = repr(value) if not isinstance(value, int) or abs(value) < _LARGEST**2 else "that many"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _check(workload: Workload) -> None:
    counts = ("micro_batch", "grad_accum", "gpus", "gpus_per_node", "image_tokens", "workers")
    for name in counts:
        _at_least(name, getattr(workload, name), 1)
    for name in ("steps", "samples", "reduce_bucket"):
        _at_least(name, getattr(workload, name), 1, most=_LARGEST**2)
    _at_least("images_per_sample", workload.images_per_sample, 0)
    for name in ("epochs", "image_ms", "price_per_gpu_hour"):
        if (value := getattr(workload, name)) is not None:
            _positive(name, value, _DEAREST)
    if not 0 < workload.logit_share <= 1:
        raise PlannerError(f"logit_share must be in (0, 1], not {workload.logit_share:g}")
    for name in Interconnect.__struct_fields__:
        if (value := getattr(workload.interconnect, name)) is not None:
            _positive(f"interconnect.{name}", value)
    for length in workload.seq_len.values:
        _at_least("seq_len", length, 1)
    _check_method(workload.method)
    _check_cards(workload)
    _check_offload(workload)


def _check_method(method: Method) -> None:
    _at_least("method.r", method.r, 1)
    _at_least("method.group", method.group, 1)
    if not 0 <= method.dropout < 1:
        raise PlannerError(f"method.dropout must be in [0, 1), not {method.dropout:g}")
    if method.kind == "projector" and not method.train_projector:
        raise PlannerError("method projector with train_projector false trains nothing")


def _check_cards(workload: Workload) -> None:
    gpus, per_node = workload.gpus, workload.gpus_per_node
    if gpus > per_node and gpus % per_node:
        raise PlannerError(f"gpus ({gpus}) must be a multiple of gpus_per_node ({per_node})")
    if workload.sharding == "none" and gpus > 1:
        raise PlannerError(f"sharding none is one card, not {gpus}: write ddp, zero* or fsdp")


def _check_offload(workload: Workload) -> None:
    stage, offload = workload.sharding, workload.offload
    if offload == "optimizer_params" and stage not in ("zero3", "fsdp"):
        raise PlannerError(f"offload optimizer_params needs sharding zero3 or fsdp, not {stage}")
    if offload == "optimizer" and stage not in ("zero1", "zero2", "zero3", "fsdp"):
        raise PlannerError(f"offload optimizer needs sharding zero1 to zero3 or fsdp, not {stage}")


def _at_least(name: str, value: float | None, least: int, most: int = _LARGEST) -> None:
    if value is None:
        return
    if not value >= least:
        raise PlannerError(f"{name} must be at least {least}, not {_short(value)}")
    if value > most:
        raise PlannerError(f"{name} must be at most {most:g}, not {_short(value)}")
