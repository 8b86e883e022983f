"""A model whose family the planner does not read by itself, and what to do about it."""

import difflib
from collections.abc import Iterable

from planner.errors import PlannerError


class UnknownFamilyError(PlannerError):
    """No reader for a ``model_type``: counting the model on the meta device helps."""


def unknown_family(key: str, model_type: str, known: Iterable[str]) -> UnknownFamilyError:
    """The error for a ``model_type`` that no table has.

    Args:
        key: where it stands, such as ``text_config.model_type``.
        model_type: what stands there.
        known: the types that could stand there.
    """
    near = difflib.get_close_matches(model_type, sorted(known), n=3)
    hint = f" (near it: {', '.join(near)})" if near else ""
    return UnknownFamilyError(
        f"{key} {model_type!r} is not known{hint}; count the directory of its config.json "
        "where torch is installed: python -m hpcjobs.train.count_model DIR > DIR/planner_count.json"
    )
