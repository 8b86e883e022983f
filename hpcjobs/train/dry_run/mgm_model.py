"""Our MGM model on the meta device, as the trainer builds it."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from hpcjobs.run.errors import ConfigError
from hpcjobs.run.experiment import Method
from hpcjobs.run.model_config import Model
from hpcjobs.run.schema import build
from hpcjobs.train.dry_run.default_dtype import default_dtype
from hpcjobs.train.dry_run.fake import replaced
from hpcjobs.train.dry_run.request import Request
from hpcjobs.train.method import apply_method
from hpcjobs.train.mgm import model as mgm
from hpcjobs.train.mgm.names import DECODER_LAYERS

_PARTS = {
    "all-linear": r"(self_attn|mlp)\.\w+_proj",
    "attention": r"self_attn\.\w+_proj",
    "mlp": r"mlp\.\w+_proj",
}


def is_mgm(config: Mapping[str, Any]) -> bool:
    """Whether the configuration is our own form and no ``config.json``."""
    return "mgm" in (config.get("model_type"), config.get("kind"))


def mgm_dims(config: Mapping[str, Any]) -> Model:
    """Reads the dimensions; all else of a run's model section leaves the memory alone.

    Raises:
        ConfigError: a dimension is missing or impossible, or the language model is not Gemma.
    """
    parts = {name: config[name] for name in ("text", "vision", "aux") if name in config}
    text = parts.get("text")
    if not isinstance(text, Mapping) or text.get("model_type", "gemma") != "gemma":
        raise ConfigError("config.text must hold Gemma's dimensions: other MGM sizes are not ours")
    if config.get("tiles", 1) != 1:
        raise ConfigError("config.tiles must be 1: our MGM sees one tile a picture")
    words = {"max_length": text.get("max_positions"), "kind": "mgm", "weights": "random"}
    return build(Model, {**parts, **words})


def build_mgm_model(request: Request, dtype: torch.dtype) -> nn.Module:
    """Builds model, checkpointing and method in the trainer's order."""
    if request.towers != "frozen":
        raise ConfigError("the towers of MGM stay frozen: write towers frozen")
    with default_dtype(dtype), torch.device("meta"):
        model = mgm.build_model(mgm_dims(request.config))
        if request.attention == "eager":
            model.set_attn_implementation("eager")
        if request.grad_ckpt.language_model:
            model.activation_checkpointing_enable()
        return apply_method(model, _method(request))


def unchecked_placeholders() -> AbstractContextManager[None]:
    """Leaves out the look at token ids, which a fake tensor does not have."""
    return replaced(mgm, "check_placeholders", lambda *_: None)


def _method(request: Request) -> Method:
    method = request.method
    pattern = "|".join(_PARTS.get(name, rf"\w+\.{name}") for name in method.targets)
    return Method(
        kind=method.kind,
        rank=method.r,
        alpha=2.0 * method.r,
        dropout=method.dropout,
        targets=rf"{DECODER_LAYERS.replace('.', chr(92) + '.')}\d+\.({pattern})",
        train_projector=method.train_projector,
    )
