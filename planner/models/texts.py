"""Any known language model, alone or inside a multimodal one."""

from collections.abc import Mapping
from types import MappingProxyType

from planner.models.decoders import DECODERS
from planner.models.experts import EXPERTS
from planner.models.fields import Fields
from planner.models.older_decoders import OLDER_DECODERS
from planner.models.recipe import Recipe, Text, text_of
from planner.models.unknown import unknown_family

RECIPES: Mapping[str, Recipe] = MappingProxyType({**DECODERS, **OLDER_DECODERS, **EXPERTS})


def language_model(fields: Fields) -> Text:
    """Reads a language model of any known family.

    Raises:
        UnknownFamilyError: no recipe has this ``model_type``.
        PlannerError: a dimension is missing or impossible.
    """
    recipe = RECIPES.get(fields.model_type)
    if recipe is None:
        raise unknown_family(fields.where("model_type"), fields.model_type, RECIPES)
    return text_of(recipe, fields)
