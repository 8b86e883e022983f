"""Starting values from another run's result, or from a plain PEFT adapter."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hpcjobs.run.errors import InputError
from hpcjobs.run.experiment import Method
from hpcjobs.run.files import read_json, sha256
from hpcjobs.train.export import ADAPTER_NAME, ADAPTER_WEIGHTS, PROJECTOR_NAME
from hpcjobs.train.gather import fill_whole
from hpcjobs.train.method import plain_name
from hpcjobs.train.mgm.names import PROJECTORS, part_of

_CONFIG = "adapter_config.json"
_SHOWN = 2


def warm_start(module: nn.Module, method: Method, directory: Path) -> dict[str, str]:
    """Overwrites trained parameters with those in ``directory``; all ranks call it.

    Args:
        module: what ``apply_method`` returned, before an optimizer has copied its values.
        method: the method that was applied.
        directory: a result (``adapter/``, ``projector.safetensors`` or both), or a directory as
            PEFT writes it. Only safetensors are read.

    Returns:
        SHA-256 of each file that was read, by its path inside the directory.

    Raises:
        InputError: there is nothing to take, it is of another rank, alpha, target or shape, or
            it holds what this method does not train. Nothing is overwritten then.
    """
    adapter, projector = _adapter_of(directory), directory / PROJECTOR_NAME
    values: dict[str, Tensor] = {}
    targets: dict[str, nn.Parameter] = {}
    files = [path for path in (adapter, projector) if path is not None and path.is_file()]
    if not files:
        raise _refusal(directory, f"there is no {ADAPTER_WEIGHTS} and no {PROJECTOR_NAME}")
    for path in files:
        is_adapter = path.name == ADAPTER_WEIGHTS
        if is_adapter:
            _check_config(path.with_name(_CONFIG), method, directory)
        values |= _read(path, directory)
        targets |= _trained(module, adapters=is_adapter)
    _check(values, targets, directory)
    for key, parameter in targets.items():
        fill_whole(parameter, values[key])
    return {str(path.relative_to(directory)): sha256(path) for path in files}


def _adapter_of(directory: Path) -> Path | None:
    """A result keeps its adapter one level down, PEFT directly in its directory."""
    places = (directory / ADAPTER_NAME / ADAPTER_WEIGHTS, directory / ADAPTER_WEIGHTS)
    return next((path for path in places if path.is_file()), None)


def _trained(module: nn.Module, *, adapters: bool) -> dict[str, nn.Parameter]:
    """Trained adapters or projectors, by the names that their files use."""
    found = {}
    for name, parameter in module.named_parameters():
        is_adapter = ".lora_" in name
        if not parameter.requires_grad or is_adapter != adapters:
            continue
        if is_adapter:
            found[name.replace(".default.", ".")] = parameter
        elif part_of(plain_name(name)) in PROJECTORS:
            found[plain_name(name)] = parameter
    return found


def _check_config(path: Path, method: Method, directory: Path) -> None:
    """Compares what shapes do not tell: a factor alpha / rank stands before every adapter."""
    config = read_json(path)
    if method.kind != "lora":
        raise _refusal(directory, f"it holds an adapter, and method={method.kind} trains none")
    for key, wanted in (("r", method.rank), ("lora_alpha", method.alpha)):
        if config.get(key) != wanted:
            word = {"r": "rank", "lora_alpha": "alpha"}[key]
            raise _refusal(
                directory, f"its {key} is {config.get(key)}: write method.{word}={config.get(key)}"
            )
    for key in ("use_rslora", "use_dora", "modules_to_save"):
        if config.get(key):
            raise _refusal(directory, f"{path.name} sets {key}, which this trainer does not have")


def _read(path: Path, directory: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _refusal(directory, f"cannot read {path.name}, is it complete? {error}") from error


def _check(
    values: Mapping[str, Tensor], targets: Mapping[str, nn.Parameter], directory: Path
) -> None:
    problems = {
        "missing": [key for key in targets if key not in values],
        "not trained here": [key for key in values if key not in targets],
        "of another shape": [
            f"{key} {list(values[key].shape)} instead of {list(_shape(targets[key]))}"
            for key in targets
            if key in values and values[key].shape != _shape(targets[key])
        ],
    }
    said = [f"{len(keys)} {what} ({_first(keys)})" for what, keys in problems.items() if keys]
    if said:
        raise _refusal(directory, "; ".join(said))


def _shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """The whole shape; a parameter that ZeRO-3 has divided is empty."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def _first(keys: list[str]) -> str:
    rest = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + rest


def _refusal(directory: Path, why: str) -> InputError:
    return InputError(f"method.start_from={directory} does not fit: {why}")
