"""An architecture out of counts: what ``hpcjobs.train.count_model`` answers.

That program builds a model on the meta device where torch is installed; the planner only reads
its JSON. Parameters by component are exact; image tokens are not in it and come with the
workload.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from planner.architecture import Architecture, LayerGroup, Linear, Tower
from planner.errors import PlannerError

COUNT_FILE = "planner_count.json"
"""Beside a ``config.json``: the answer of the program, where the family is unknown."""

_VERSION = 1


class _Projector(msgspec.Struct, frozen=True):
    linears: tuple[Linear, ...]
    other: int


class _Count(msgspec.Struct, frozen=True):
    version: int
    model_type: str
    parameters: int
    vocab: int
    tied: bool
    head_bias: bool
    max_positions: int
    language_model: Tower
    towers: tuple[Tower, ...]
    projector: _Projector


def architecture_from_count(answer: Mapping[str, Any]) -> Architecture:
    """Reads the answer of ``python -m hpcjobs.train.count_model``.

    The name says that the model was counted: ``olmo2 (counted on the meta device)``.

    Raises:
        PlannerError: it is another version's, or does not add up to its own sum.
    """
    if answer.get("version") != _VERSION:
        raise PlannerError(
            f"a count of version {answer.get('version')!r} cannot be read: count the model again"
        )
    try:
        counted = msgspec.convert(answer, _Count)
    except msgspec.ValidationError as error:
        raise PlannerError(f"the count is damaged ({error}): count the model again") from error
    architecture = _architecture(counted)
    if architecture.parameters != counted.parameters:
        raise PlannerError(
            f"the counted parts make {architecture.parameters} parameters, not "
            f"{counted.parameters}: count the model again"
        )
    return architecture


def _architecture(counted: _Count) -> Architecture:
    return Architecture(
        name=f"{counted.model_type} (counted on the meta device)",
        family=counted.model_type,
        language_model=_with_own_width(counted.language_model),
        vocab=counted.vocab,
        tied=counted.tied,
        head_bias=counted.head_bias,
        towers=tuple(_with_own_width(tower) for tower in counted.towers),
        projector=counted.projector.linears,
        projector_other=counted.projector.other,
        max_positions=counted.max_positions,
    )


def refuse_other_layers(architecture: Architecture) -> None:
    """Refuses all but decoders whose layers attend to themselves: no others are recorded.

    Raises:
        PlannerError: a state-space layer keeps other tensors, and so does cross-attention.
    """
    name = architecture.family
    for group in architecture.language_model.groups:
        attention = [linear for linear in group.linears if _is_query(linear.name)]
        if not attention:
            found = ", ".join(linear.name for linear in group.linears)
            raise PlannerError(
                f"{name} has layers without attention ({found}): what they keep is not known"
            )
        if any(linear.copies > 1 for linear in attention):
            raise PlannerError(
                f"{name} is an encoder-decoder (cross-attention): what it keeps is not known"
            )


def _is_query(name: str) -> bool:
    """Every family's name for its queries has one of these in it: ``q_proj``, ``c_attn``."""
    return any(part in name.lower() for part in ("q", "attn", "att_proj", "w_pack"))


def _with_own_width(tower: Tower) -> Tower:
    """Several towers may share one section of the config: their matrices say how wide they are."""
    groups = tuple(
        replace(group, linears=tuple(_turned(x, tower.hidden) for x in group.linears))
        for group in tower.groups
    )
    tower = replace(tower, groups=groups)
    widths = {_width(group) for group in groups}
    if tower.hidden in widths or len(widths) != 1:
        return tower
    hidden = widths.pop()
    head_dim = math.gcd(hidden, tower.head_dim)
    heads = hidden // head_dim
    return replace(tower, hidden=hidden, heads=heads, kv_heads=heads, head_dim=head_dim)


def _width(group: LayerGroup) -> int:
    """What goes into the queries."""
    return next(
        (linear.inputs for linear in group.linears if _is_query(linear.name)),
        group.linears[0].inputs if group.linears else 0,
    )


def _turned(linear: Linear, hidden: int) -> Linear:
    """Experts kept in one parameter may be stored as inputs x outputs (Llama 4)."""
    into = linear.outputs if linear.name.startswith("down") else linear.inputs
    out_of = linear.inputs if linear.name.startswith("down") else linear.outputs
    if linear.copies > 1 and not linear.bias and into != hidden == out_of:
        return replace(linear, inputs=linear.outputs, outputs=linear.inputs)
    return linear
