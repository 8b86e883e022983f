"""Writes what a run has learnt, in files that other tools read too."""

import copy
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from hpcjobs.run.errors import InputError
from hpcjobs.run.experiment import Method
from hpcjobs.run.files import PRIVATE_DIR, make_private_dir, sync, write_json
from hpcjobs.run.model_config import Model
from hpcjobs.run.schema import plain
from hpcjobs.train.gather import whole_parameters
from hpcjobs.train.method import plain_name
from hpcjobs.train.mgm.names import PROJECTORS, part_of
from hpcjobs.train.weights import INDEX_NAME

ADAPTER_NAME = "adapter"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PROJECTOR_NAME = "projector.safetensors"
RESULT_NAME = "result.json"

_SHARD_BYTES = 5_000_000_000
_LORA = ".lora_"


def export_result(
    model: nn.Module, model_dims: Model, method: Method, directory: Path, *, writes: bool = True
) -> None:
    """Writes the trained parameters, and ``model.json`` with the dimensions.

    - ``lora``: ``adapter/`` in PEFT's form, loadable on a plain ``GemmaForCausalLM`` with the same
      base weights, and ``projector.safetensors``: 16 tensors under the full model's key names.
    - ``projector``: ``projector.safetensors``.
    - ``full``: all weights in shards with an index, as ``load_weights`` reads them.

    Parameters are written in the dtype that they have. Call it on all ranks where ZeRO-3 has
    divided them, and let one of them write. Everything goes into a hidden directory beside the
    target first and is synced, then renamed: ``directory`` is complete or not there. An older one
    is replaced.

    Args:
        model: what ``apply_method`` returned, without DeepSpeed's engine around it.
        model_dims: the dimensions that the model was built from.
        method: the method that was applied.
        directory: the target; its parent exists.
        writes: whether this rank writes; the others only hand over their parts.

    Raises:
        InputError: the disk is full or the place cannot be written.
    """
    whole = exported_parameters(model, method, keep=writes)
    if writes:
        write_result(model, whole, model_dims, method, directory, directory.parent)


def exported_parameters(model: nn.Module, method: Method, *, keep: bool) -> dict[str, Tensor]:
    """What ``export_result`` writes, whole and by name; empty where this rank keeps nothing.

    All ranks must call it.
    """
    return dict(whole_parameters(model, lambda name: _is_exported(name, method), keep=keep))


def write_result(
    model: nn.Module,
    whole: Mapping[str, Tensor],
    model_dims: Model,
    method: Method,
    directory: Path,
    staging: Path,
    figures: Mapping[str, Any] | None = None,
) -> None:
    """Writes what ``export_result`` writes, from values that may lie elsewhere than in the model.

    Args:
        model: tells what adapters there are.
        whole: name to value of every parameter of the method, as ``named_parameters`` has them.
        model_dims: the dimensions.
        method: the method.
        directory: the target; its parent exists.
        staging: an existing directory beside it, where the result is prepared.
        figures: what ``result.json`` says; None writes none.

    Raises:
        InputError: the disk is full or the place cannot be written.
    """
    partial = staging / f".{directory.name}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of an attempt that was killed while writing
        partial.mkdir(mode=PRIVATE_DIR)
        _write(model, whole, model_dims, method, partial)
        if figures is not None:
            write_json(partial / RESULT_NAME, figures)
        _sync_tree(partial)
        _replace(partial, directory)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise InputError(f"cannot write the result to {directory}: {error}") from error


def write_shards(
    tensors: Mapping[str, Tensor], directory: Path, shard_bytes: int = _SHARD_BYTES
) -> None:
    """Writes tensors as ``model-00001-of-0000N.safetensors`` with an index.

    There is an index even for a single shard, because MGM's own loader insists on one.

    Args:
        tensors: key to tensor; views into one flat buffer, as ZeRO makes them, are fine.
        directory: an existing directory.
        shard_bytes: limit of a shard; a larger tensor gets one of its own.
    """
    shards = list(_split(tensors, shard_bytes))
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _save(shard, directory / name)
        weight_map.update(dict.fromkeys(shard, name))
    total = sum(_bytes(tensor) for tensor in tensors.values())
    write_json(
        directory / INDEX_NAME, {"metadata": {"total_size": total}, "weight_map": weight_map}
    )


def _is_exported(name: str, method: Method) -> bool:
    if method.kind == "full":
        return True
    return _LORA in name or part_of(plain_name(name)) in PROJECTORS


def _write(
    model: nn.Module,
    whole: Mapping[str, Tensor],
    model_dims: Model,
    method: Method,
    directory: Path,
) -> None:
    weights = {plain_name(name): tensor for name, tensor in whole.items()}
    if method.kind == "full":
        write_shards(weights, directory)
    else:
        projector = {k: v for k, v in weights.items() if part_of(k) in PROJECTORS}
        _save(projector, directory / PROJECTOR_NAME)
    if isinstance(model, PeftModel):
        _write_adapter(model, whole, directory / ADAPTER_NAME)
    write_json(directory / "model.json", plain(model_dims))


def _write_adapter(model: PeftModel, whole: Mapping[str, Tensor], directory: Path) -> None:
    make_private_dir(directory)
    # PEFT would ask the Hub about the base model to decide on embeddings; they are not adapted.
    adapter = get_peft_model_state_dict(model, state_dict=dict(whole), save_embedding_layers=False)
    _save(adapter, directory / ADAPTER_WEIGHTS)
    config = copy.deepcopy(model.peft_config["default"])
    config.inference_mode = True
    config.save_pretrained(str(directory))


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    whole = {key: tensor.detach().contiguous() for key, tensor in tensors.items()}
    save_file(whole, path, metadata={"format": "pt"})  # the metadata that transformers asks for


def _split(tensors: Mapping[str, Tensor], shard_bytes: int) -> Iterator[dict[str, Tensor]]:
    """Fills shards in the tensors' order."""
    shard: dict[str, Tensor] = {}
    used = 0
    for key, tensor in tensors.items():
        if shard and used + _bytes(tensor) > shard_bytes:
            yield shard
            shard, used = {}, 0
        shard[key] = tensor
        used += _bytes(tensor)
    if shard:
        yield shard


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _sync_tree(directory: Path) -> None:
    for path in directory.rglob("*"):
        sync(path)
    sync(directory)


def _replace(partial: Path, directory: Path) -> None:
    """Renames; directories cannot be swapped, so an older one steps aside for a moment."""
    old = partial.with_name(f".{directory.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if directory.exists():
        directory.rename(old)
    partial.rename(directory)
    sync(directory.parent)
    shutil.rmtree(old, ignore_errors=True)
