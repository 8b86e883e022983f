"""What is trained: adapters, everything but the towers, or the projectors alone."""

import difflib
import re

from peft import LoraConfig, PeftModel
from torch import nn

from hpcjobs.run.errors import ConfigError
from hpcjobs.run.experiment import Method
from hpcjobs.train.mgm.names import DECODER_LAYERS, PROJECTORS, TOWERS, part_of


def apply_method(model: nn.Module, method: Method) -> nn.Module:
    """Freezes and unfreezes parameters, and adds adapters where the method is LoRA.

    The towers stay frozen under every method. ``train_projector`` decides about ``mm_projector``
    and ``vlm_uni_*``.

    Args:
        model: a model of ``build_model``, changed in place.
        method: what to train.

    Returns:
        The module to train: the model itself, or the model in a ``PeftModel``. Both take the
        arguments of ``MgmForCausalLM.forward``.

    Raises:
        ConfigError: nothing would be trained, or ``method.targets`` matches no module, a tower,
            or a module that is no linear layer of the decoder.
    """
    if method.kind == "projector" and not method.train_projector:
        raise ConfigError(
            "method.kind=projector with method.train_projector=false leaves nothing to train: "
            "write method.train_projector=true"
        )
    module = _with_adapters(model, method) if method.kind == "lora" else model
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(_is_trained(plain_name(name), parameter, method))
    return module


def trainable_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Returns what the optimizer sees: name to parameter, in the model's order."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def base_model(module: nn.Module) -> nn.Module:
    """Returns the MGM model inside what ``apply_method`` returned."""
    inner: nn.Module = module.get_base_model() if isinstance(module, PeftModel) else module
    return inner


def plain_name(name: str) -> str:
    """Drops the two levels that ``PeftModel`` puts before a name of the model."""
    return name.removeprefix("base_model.model.")


def _is_trained(name: str, parameter: nn.Parameter, method: Method) -> bool:
    part = part_of(name)
    if part in TOWERS:
        return False
    if part in PROJECTORS:
        return method.train_projector
    # PEFT has just left exactly the adapters trainable.
    return method.kind == "full" or (method.kind == "lora" and parameter.requires_grad)


def _with_adapters(model: nn.Module, method: Method) -> PeftModel:
    _check_targets(model, method.targets)
    config = LoraConfig(
        r=method.rank,
        lora_alpha=method.alpha,
        lora_dropout=method.dropout,
        target_modules=method.targets,
        bias="none",
        task_type="CAUSAL_LM",
    )
    # Not get_peft_model: for this task type it takes a class whose forward has positions of its
    # own (input_ids, attention_mask, inputs_embeds, ...), where labels would land elsewhere.
    # Adapters keep the layers' dtype, because DeepSpeed wants one dtype a parameter group.
    return PeftModel(model, config, autocast_adapter_dtype=False)


def _check_targets(model: nn.Module, targets: str) -> None:
    """Refuses patterns that PEFT would take, or refuse in terms of its own."""
    modules = dict(model.named_modules())
    hits = [name for name in modules if re.fullmatch(targets, name)]
    if not hits:
        near = ", ".join(_near(targets, modules))
        raise ConfigError(
            f"method.targets {targets!r} matches no module. It must match a whole name, such as "
            f"{near}"
        )
    for name in hits:
        if part_of(name) in TOWERS:
            raise ConfigError(
                f"method.targets {targets!r} also matches {name}: the towers stay frozen; begin "
                rf"the pattern with model\.layers\."
            )
        if not (name.startswith(DECODER_LAYERS) and isinstance(modules[name], nn.Linear)):
            raise ConfigError(
                f"method.targets {targets!r} matches {name or 'the whole model'}, which is no "
                f"linear layer of the decoder: adapters go to {DECODER_LAYERS}* only"
            )


def _near(targets: str, modules: dict[str, nn.Module]) -> list[str]:
    """Names of the first decoder layer that look most like the pattern."""
    names = [
        name
        for name, module in modules.items()
        if name.startswith(f"{DECODER_LAYERS}0.") and isinstance(module, nn.Linear)
    ]
    return difflib.get_close_matches(targets.replace("\\", ""), names, n=3, cutoff=0)
