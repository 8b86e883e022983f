"""Transformers' own models on the meta device: what the planner's counts are held against."""

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Mapping

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedModel,
)
from transformers.pytorch_utils import Conv1D

CLASSES = {
    "causal": AutoModelForCausalLM,
    "image": AutoModelForImageTextToText,
    "plain": AutoModel,
}


def build(content: Mapping[str, object], kind: str) -> PreTrainedModel:
    """The model of a ``config.json``'s content, without memory."""
    config = CONFIG_MAPPING[content["model_type"]](**content)
    with torch.device("meta"):
        return CLASSES[kind].from_config(config)


def counts(model: torch.nn.Module, parts: Mapping[str, str]) -> dict[str, int]:
    """Parameters by component: the first pattern that a parameter's name matches."""
    found: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        part = next((p for p, pattern in parts.items() if re.search(pattern, name)), "other")
        found[part] += parameter.numel()
    return dict(found)


def layer_linears(model: torch.nn.Module) -> Counter[tuple[str, int, int, bool]]:
    """Name, inputs, outputs and bias of every linear layer inside the decoder's layers."""
    found: Counter[tuple[str, int, int, bool]] = Counter()
    for name, module in model.named_modules():
        linear = "Linear" in type(module).__name__ or isinstance(module, Conv1D)
        if not linear or not re.search(r"\.\d+\.", name):
            continue
        leaf = name.rpartition(".")[2]
        sizes = (module.nx, module.nf) if isinstance(module, Conv1D) else module.weight.shape[::-1]
        found[leaf, *sizes, module.bias is not None] += 1
    return found


def default_of(field: dataclasses.Field) -> object:
    """What a configuration class fills in, as JSON would have it."""
    value = field.default
    if value is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    return list(value) if isinstance(value, tuple) else value
