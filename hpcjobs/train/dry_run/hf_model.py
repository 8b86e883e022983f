"""A Hugging Face model on the meta device, with what the method trains marked."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.pytorch_utils import Conv1D

from hpcjobs.run.errors import ConfigError
from hpcjobs.train.dry_run.default_dtype import default_dtype
from hpcjobs.train.dry_run.request import Request

HfModel: TypeAlias = Any
"""A model of transformers, whose types nobody checks here."""

# Not dimensions; some would be read as orders to load or quantise.
_NO_DIMS = ("_name_or_path", "dtype", "torch_dtype", "quantization_config", "auto_map")
_LINEAR = (nn.Linear, Conv1D)
_TOWERS = ("vision_tower", "visual", "vision_model", "vision_tower_aux")
_PROJECTORS = ("multi_modal_projector", "merger", "connector", "embed_vision")
_ATTENTION = ("attn", "attention")


def build_hf_model(request: Request, dtype: torch.dtype) -> nn.Module:
    """Builds the model that a ``config.json`` describes; its dropout is off.

    Raises:
        ConfigError: transformers does not know the configuration.
    """
    config = _config(request.config)
    kind = "eager" if request.attention == "eager" else "sdpa"
    auto = AutoModelForImageTextToText if _sees(config) else AutoModelForCausalLM
    config.use_cache = config.get_text_config().use_cache = False
    try:
        with torch.device("meta"):
            model = auto.from_config(config, dtype=dtype, attn_implementation=kind)
    except ValueError as error:
        raise ConfigError(f"transformers refuses the model: {error}") from error
    module = _with_method(model, request)
    _checkpoint(model, request)
    return module


def part_of(name: str) -> str:
    """Tells ``tower``, ``projector`` or ``language_model`` by a parameter's or module's name.

    >>> part_of("model.visual.merger.mlp.0.weight"), part_of("model.vision_tower.encoder")
    ('projector', 'tower')
    """
    levels = name.split(".")
    if any(level in _PROJECTORS for level in levels):
        return "projector"
    return "tower" if any(level in _TOWERS for level in levels) else "language_model"


def _config(raw: Mapping[str, Any]) -> Any:  # noqa: ANN401
    dims = {key: value for key, value in raw.items() if key not in _NO_DIMS}
    kind = dims.pop("model_type", None)
    if not isinstance(kind, str):
        raise ConfigError("config has no model_type: give the content of a config.json")
    try:
        config = AutoConfig.for_model(kind, **dims)
    except ValueError as error:
        raise ConfigError(f"transformers does not know model_type {kind!r}") from error
    for part in (config, config.get_text_config(), getattr(config, "vision_config", None)):
        for key in list(vars(part)) if part is not None else ():
            if "drop" in key and isinstance(getattr(part, key), float):
                setattr(part, key, 0.0)
    return config


def _sees(config: Any) -> bool:  # noqa: ANN401
    return getattr(config, "vision_config", None) is not None


def _checkpoint(model: HfModel, request: Request) -> None:
    """Switches checkpointing on for language model and towers apart.

    It comes after the adapters: PEFT would make the outputs of all embeddings require gradients
    where it finds checkpointing, a frozen tower's too, which would then keep its activations.
    """
    parts = _parts(model)
    if request.grad_ckpt.language_model:
        parts["language_model"].activation_checkpointing_enable()
    if request.grad_ckpt.towers and request.towers != "frozen" and "tower" in parts:
        parts["tower"].activation_checkpointing_enable()


def _parts(model: HfModel) -> dict[str, Any]:
    """The outermost ``PreTrainedModel`` of language model and tower."""
    inner: Any = model.base_model
    if not _sees(model.config):
        return {"language_model": model}
    towers = [getattr(inner, name) for name in _TOWERS if hasattr(inner, name)]
    return {"language_model": inner.language_model, "tower": towers[0]}


def _with_method(model: HfModel, request: Request) -> nn.Module:
    method = request.method
    module = _with_adapters(model, request) if method.kind == "lora" else model
    for name, parameter in module.named_parameters():
        part = part_of(name)
        if part == "projector":
            parameter.requires_grad_(method.train_projector)
        elif method.kind == "projector":
            parameter.requires_grad_(False)
        elif method.kind == "full":
            parameter.requires_grad_(part == "language_model" or request.towers == "trainable")
        elif part == "tower" and request.towers == "trainable":
            parameter.requires_grad_(True)
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise ConfigError(f"method {method.kind} trains nothing in this model")
    return module


def _with_adapters(model: HfModel, request: Request) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    method = request.method
    targets = list(_adapted(model, request))
    if not targets:
        raise ConfigError(f"method.targets {method.targets} names no linear layer of the model")
    config = LoraConfig(
        r=method.r,
        lora_alpha=2 * method.r,
        lora_dropout=method.dropout,
        target_modules=targets,
        modules_to_save=_copied(model, request) or None,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )
    # On meta PEFT does not give adapters the type of the layer that they sit on.
    with default_dtype(model.dtype), torch.device("meta"):
        adapted: nn.Module = get_peft_model(
            model, config, autocast_adapter_dtype=request.adapters_in_fp32
        )
    return adapted


def _copied(model: HfModel, request: Request) -> list[str]:
    """Names of the embedding and the head where they are trained beside adapters."""
    wanted = {
        model.get_input_embeddings(): request.method.train_embeddings,
        model.get_output_embeddings(): request.method.train_head,
    }
    return [name.rpartition(".")[2] for name, module in model.named_modules() if wanted.get(module)]


def _adapted(model: HfModel, request: Request) -> Iterator[str]:
    head = model.get_output_embeddings()
    wanted = ("tower", "language_model") if request.towers == "lora" else ("language_model",)
    for name, module in model.named_modules():
        part = part_of(name)
        is_linear = isinstance(module, _LINEAR) and module is not head and part in wanted
        if is_linear and (part == "tower" or _is_target(name, request.method.targets)):
            yield name


def _is_target(name: str, targets: tuple[str, ...]) -> bool:
    parent, _, last = name.rpartition(".")
    in_attention = any(word in parent.rpartition(".")[2] for word in _ATTENTION)
    groups = {"all-linear", "attention" if in_attention else "mlp", last}
    return not groups.isdisjoint(targets)
