"""An architecture out of counts: what ``hpcjobs.train.count_model`` answers.

That program builds a model on the meta device where torch is installed; the planner only reads
its JSON. Parameters by component are exact; image tokens are not in it and come with the
workload.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from planner.architecture import Architecture, Linear, Tower
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
        language_model=counted.language_model,
        vocab=counted.vocab,
        tied=counted.tied,
        head_bias=counted.head_bias,
        towers=counted.towers,
        projector=counted.projector.linears,
        projector_other=counted.projector.other,
        max_positions=counted.max_positions,
    )
