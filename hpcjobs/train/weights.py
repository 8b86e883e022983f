"""Reads a model's weights from safetensors files in MGM's own key names, strictly."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from hpcjobs.run.errors import InputError
from hpcjobs.run.files import read_json
from hpcjobs.train.mgm.names import EMBEDDING, LM_HEAD

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"

_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_DERIVED = (".embeddings.position_ids", ".rotary_emb.inv_freq")
"""Buffers that older versions of transformers stored; they follow from the dimensions."""
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class _Stored:
    """One tensor as a file's header describes it."""

    path: Path
    shape: tuple[int, ...]
    dtype: str


def check_model_dir(directory: Path) -> tuple[Path, ...]:
    """Finds the files that hold a model's weights, without reading the weights.

    Args:
        directory: holds ``model.safetensors.index.json`` and the shards that it names, or one
            ``model.safetensors``.

    Returns:
        The files, sorted.

    Raises:
        InputError: the directory or a file is missing, the index is broken or points outside the
            directory, or there are only pickled weights.
    """
    if not directory.is_dir():
        raise InputError(f"model.path {directory} is no directory")
    if (directory / INDEX_NAME).exists():
        return _indexed_files(directory)
    if (directory / SINGLE_NAME).exists():
        return (directory / SINGLE_NAME,)
    if any(directory.glob("pytorch_model*.bin*")):
        raise InputError(
            f"{directory} holds pytorch_model.bin only: a pickle can run code when it is read; "
            "convert it to safetensors first"
        )
    raise InputError(f"{directory} holds neither {INDEX_NAME} nor {SINGLE_NAME}")


def load_weights(
    model: nn.Module,
    directory: Path,
    settle: Callable[[nn.Parameter], None] = lambda _: None,
    *,
    reads: bool = True,
) -> None:
    """Overwrites every parameter of the model from the files in ``directory``.

    Values are converted to the parameters' dtype and copied tensor by tensor, so that no second
    copy of the model is held. ``lm_head.weight`` may be there or not: it is tied to the embedding.

    Args:
        model: a model of ``build_model``, before ``apply_method``, not on the meta device.
        directory: see ``check_model_dir``.
        settle: called with every parameter once it is complete, in an order that is the same for
            all ranks: ZeRO-3 divides it there.
        reads: whether this process copies values; a rank that is sent them only checks headers.

    Raises:
        InputError: a file is broken; keys, shapes or types are not exactly the model's; or the
            file's head is another than its embedding. Nothing is overwritten where a header
            already tells.
    """
    targets = dict(model.named_parameters(remove_duplicate=False))
    stored = _read_headers(check_model_dir(directory))
    _check(targets, stored, directory)
    head = stored.pop(LM_HEAD, None)
    for key, read in _readers(stored):
        with torch.no_grad():
            if reads:
                targets[key].copy_(read())
            if reads and head is not None and key == EMBEDDING:
                _check_tied(targets[key], _read_one(head, LM_HEAD), directory)
        settle(targets[key])


def _indexed_files(directory: Path) -> tuple[Path, ...]:
    index = read_json(directory / INDEX_NAME)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{directory / INDEX_NAME} has no weight_map")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        # A bare file name only: an index is downloaded data and must not choose what is read.
        if name != Path(name).name or not name.endswith(".safetensors"):
            raise InputError(
                f"{directory / INDEX_NAME} names {name!r}: shards are .safetensors files beside it"
            )
        if not (directory / name).is_file():
            raise InputError(f"{directory / INDEX_NAME} names {name}, which is missing")
    return tuple(directory / name for name in names)


def _read_headers(files: Iterable[Path]) -> dict[str, _Stored]:
    """Lists what the files hold by their own headers; an index may be out of date."""
    stored: dict[str, _Stored] = {}
    for path in files:
        with _open(path) as handle:
            for key in handle.keys():  # noqa: SIM118 - it has keys() but is no mapping
                if key in stored:
                    raise InputError(f"{key} is in both {stored[key].path.name} and {path.name}")
                if key.endswith(_DERIVED):
                    continue
                part = handle.get_slice(key)
                stored[key] = _Stored(path, tuple(part.get_shape()), part.get_dtype())
    return stored


def _check(targets: Mapping[str, Tensor], stored: dict[str, _Stored], directory: Path) -> None:
    missing = [key for key in targets if key not in stored and key != LM_HEAD]
    unexpected = [key for key in stored if key not in targets]
    unfit = [_misfit(key, targets[key], stored[key]) for key in targets if key in stored]
    problems = [
        f"{len(found)} {word} ({_first(found)})"
        for word, found in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("unfit", [misfit for misfit in unfit if misfit]),
        )
        if found
    ]
    if problems:
        raise InputError(
            f"the weights in {directory} are not this model's: {'; '.join(problems)}. "
            "Compare model.text, model.vision and model.aux with the checkpoint"
        )


def _misfit(key: str, target: Tensor, stored: _Stored) -> str:
    """Says what keeps a tensor of the file from the parameter of its name; empty if nothing."""
    if stored.shape != tuple(target.shape):
        return f"{key} {list(stored.shape)} instead of {list(target.shape)}"
    if stored.dtype not in _FLOATS:  # quantised weights would be copied as plain integers
        return f"{key} of type {stored.dtype}"
    return ""


def _readers(stored: Mapping[str, _Stored]) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Yields the keys file by file, each with what reads its tensor while its turn lasts."""
    for path in sorted({entry.path for entry in stored.values()}):
        with _open(path) as handle:
            for key in (key for key, entry in stored.items() if entry.path == path):
                yield key, partial(handle.get_tensor, key)


def _read_one(entry: _Stored, key: str) -> Tensor:
    with _open(entry.path) as handle:
        tensor: Tensor = handle.get_tensor(key)
        return tensor


def _check_tied(embedding: Tensor, head: Tensor, directory: Path) -> None:
    if not torch.equal(head.to(embedding.dtype), embedding.cpu()):
        raise InputError(
            f"{LM_HEAD} in {directory} differs from {EMBEDDING}, but Gemma's head is tied to its "
            "embedding: one of the two would be lost"
        )


def _first(words: list[str]) -> str:
    rest = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + rest


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read {path}, is it complete? {error}") from error
