"""Counts any transformers model on the meta device, for the planner, and answers in JSON.

``python -m hpcjobs.train.count_model DIR > DIR/planner_count.json`` builds the model of a
``config.json`` without memory and without network, walks its modules, and says what a formula
needs: stacks of layers, the linear layers in them, and what lies beside them. The planner reads
the answer where it knows no ``model_type``.

A stack is an outermost ModuleList. The one beside the input embeddings is the language model's;
the others are towers; what belongs to neither stands between them, as the projector.
"""

import json
import os
import re
import sys
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hpcjobs.run.errors import ConfigError, HpcjobsError, InputError
from hpcjobs.train.count_layers import (
    dims_of,
    groups_of,
    linear_of,
    norms_of,
    number,
    parameters_of,
    with_rest,
)

_VERSION = 1
# A stack that holds less than this share of all parameters is no tower of its own.
_SMALLEST_SHARE = 0.005
# Inside a tower's path, but on the way to the language model.
_BETWEEN = re.compile(r"\.\w*(merger|projector|connector|resampler)\w*\.")
# What transformers raises for a configuration that it cannot build.
_BROKEN = (ValueError, TypeError, KeyError, AttributeError, ImportError, OSError)
_HEAD, _SHARED = "<head>", "<shared>"


@dataclass(frozen=True, slots=True)
class Stack:
    """An outermost list of layers."""

    path: str
    layers: tuple[nn.Module, ...]

    @property
    def parameters(self) -> int:
        """Parameters of all its layers."""
        return sum(p.numel() for layer in self.layers for p in layer.parameters())


def build_model(path: Path) -> nn.Module:
    """Builds the model of a ``config.json`` (or of its directory) on the meta device.

    Raises:
        InputError: there is no such file.
        ConfigError: transformers cannot build a model from it.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    file = path / "config.json" if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{file} does not exist: name a config.json or its directory")
    try:
        config = AutoConfig.from_pretrained(str(file))
        with torch.device("meta"):
            model: nn.Module = _auto_class(config).from_config(config)
    except (*_BROKEN, StrictDataclassError) as error:
        line = " ".join(str(error).split())[:300]
        raise ConfigError(f"transformers builds no model from {file}: {line}") from error
    return model


def _auto_class(config: object) -> Any:  # noqa: ANN401  a class of a library without types
    """The class that has all parts: pictures before text alone, a head before none."""
    import transformers
    from transformers.models.auto import modeling_auto as auto

    choices = {
        "AutoModelForImageTextToText": auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        "AutoModelForCausalLM": auto.MODEL_FOR_CAUSAL_LM_MAPPING,
        "AutoModelForSeq2SeqLM": auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    }
    known = (name for name, mapping in choices.items() if type(config) in mapping)
    return getattr(transformers, next(known, "AutoModel"))


def count(model: Any) -> dict[str, Any]:  # noqa: ANN401
    """Returns everything that the planner's Architecture holds, as JSON values.

    Raises:
        ConfigError: the model has no list of layers, or no input embeddings.
    """
    embeddings, head = _ends(model)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    found, text = stacks(model, _name_of(model, embeddings))
    owner = _owners(sizes, found, text, _name_of(model, embeddings), _name_of(model, head))
    inner, seen = model.config.get_text_config(), getattr(model.config, "vision_config", None)
    towers = [_tower(s, seen or model.config, sizes, owner) for s in found if s is not text]
    return {
        "version": _VERSION,
        "model_type": model.config.model_type,
        "parameters": sum(sizes.values()),
        # The head may have other rows than the embeddings: Mllama's lacks the image tokens.
        "vocab": int((embeddings if head is None else head).weight.shape[0]),
        "tied": head is None or head.weight is embeddings.weight,
        "head_bias": any(owner[n] == _HEAD and n.endswith(".bias") for n in sizes),
        "max_positions": number(inner, "max_position_embeddings"),
        "language_model": _tower(text, inner, sizes, owner)
        | {"name": "language_model", "kind": "decoder", "tokens": 0},
        "towers": towers,
        "projector": _projector(model, [n for n in sizes if owner[n] == _SHARED], sizes),
    }


def _ends(model: Any) -> tuple[Any, Any]:  # noqa: ANN401
    """Input embeddings, and the output head or None."""
    try:
        embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    except (NotImplementedError, AttributeError):
        embeddings = head = None
    if not isinstance(embeddings, nn.Embedding):
        raise ConfigError(f"{type(model).__name__} has no token embeddings: no language model")
    return embeddings, head


def stacks(model: nn.Module, embeddings: str) -> tuple[list[Stack], Stack]:
    """Finds the outermost lists of layers, and which of them reads the input embeddings.

    Args:
        model: any model.
        embeddings: path of its input embeddings.

    Returns:
        All lists that are large enough to be a tower, and the language model's among them.

    Raises:
        ConfigError: there is none.
    """
    every = [
        Stack(name, tuple(module))
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and not re.search(r"\.\d+(\.|$)", name)
    ]
    if not every:
        raise ConfigError(f"{type(model).__name__} has no list of layers to count")
    text = max(every, key=lambda stack: (_shared(stack.path, embeddings), stack.parameters))
    least = _SMALLEST_SHARE * parameters_of(model)
    towers = (s for s in every if s.parameters > least and not _BETWEEN.search(f".{s.path}."))
    return [text, *(stack for stack in towers if stack is not text)], text


def _shared(path: str, other: str) -> int:
    """How many leading parts two paths share."""
    pairs = zip(path.split("."), other.split("."), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _name_of(model: nn.Module, module: object) -> str:
    return next((name for name, found in model.named_modules() if found is module), "")


def _owners(
    sizes: dict[str, int], found: list[Stack], text: Stack, embeddings: str, head: str
) -> dict[str, str]:
    """Whose each parameter is: the path of a stack, the head's, or shared between towers."""
    roots = {stack.path: _root(stack, found) for stack in found}
    return {name: _owner(name, roots, embeddings, head, text.path) for name in sizes}


def _owner(name: str, roots: dict[str, str], embeddings: str, head: str, text: str) -> str:
    if name.startswith(f"{embeddings}."):
        return text
    if head and name.startswith(f"{head}."):
        return _HEAD
    for path, root in roots.items():
        beside = path != text and not name.startswith(f"{path}.") and _BETWEEN.search(name)
        if (not root or name.startswith(f"{root}.")) and not beside:
            return path
    return _SHARED


def _root(stack: Stack, found: list[Stack]) -> str:
    """The shortest path that holds this stack and no other."""
    parts = stack.path.split(".")
    for length in range(len(parts)):
        root = ".".join(parts[:length])
        inside = [s for s in found if not root or s.path.startswith(f"{root}.")]
        if len(inside) == 1:
            return root
    return stack.path


def _tower(
    stack: Stack, config: object, sizes: dict[str, int], owner: dict[str, str]
) -> dict[str, Any]:
    """One tower, in the planner's words; embeddings are what comes before the layers."""
    names = [name for name in sizes if owner[name] == stack.path]
    before = list(takewhile(lambda name: not name.startswith(f"{stack.path}."), names))
    embeddings = sum(sizes[name] for name in before)
    groups = groups_of(stack.layers, number(config, "num_experts_per_tok"))
    return {
        "name": stack.path,
        "kind": "encoder",
        "family": getattr(config, "model_type", ""),
        **dims_of(config, groups),
        **norms_of(stack.layers[-1], dims_of(config, groups)["hidden"]),
        "groups": groups,
        "embeddings": embeddings,
        "final": sum(sizes[name] for name in names) - embeddings - stack.parameters,
        "tokens": _patches(config),
    }


def _projector(model: nn.Module, names: list[str], sizes: dict[str, int]) -> dict[str, Any]:
    """What lies between towers: linears one by one, the rest together."""
    paths = dict.fromkeys(name.rpartition(".")[0] for name in names)
    found = [linear_of(path, model.get_submodule(path)) for path in paths]
    total = sum(sizes[name] for name in names)
    return with_rest([linear for linear in found if linear], total)


def _patches(config: object) -> int:
    image, patch = number(config, "image_size"), number(config, "patch_size")
    return (image // patch) ** 2 if patch else 0


def main(arguments: list[str]) -> int:
    """Prints the counts of a model, and returns the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m hpcjobs.train.count_model CONFIG.json|DIR\n")
        return ConfigError.exit_code
    try:
        answer = count(build_model(Path(arguments[0])))
    except HpcjobsError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    sys.stdout.write(json.dumps(answer, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
