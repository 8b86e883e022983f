"""Makes the demo data: real pictures out of two installed packages, without any download."""

import shutil
import tempfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hpcjobs.data.demo_captions import read_captions
from hpcjobs.data.demo_pictures import load_sources
from hpcjobs.data.demo_samples import DemoSample, heldout_samples, train_samples
from hpcjobs.data.demo_tokenizer import train_tokenizer
from hpcjobs.data.llava_json import PLACEHOLDER
from hpcjobs.run.errors import InputError
from hpcjobs.run.files import read_json, write_json

VERSION = 1
"""Raised with every change of what is made."""
_SEED = 2024
_PACKAGES = ("scikit-image", "scikit-learn", "pillow", "tokenizers")


def prepare(root: Path) -> None:
    """Makes the demo data in ``root``, unless it is there already.

    It is built beside ``root`` and renamed, so that a reader finds all of it or nothing; of two
    processes that start at once one wins, and both made the same bytes.

    Raises:
        InputError: the pictures' packages are missing, or ``root`` cannot be written or holds
            something else.
    """
    root = root.resolve()
    try:
        if _is_there(root):
            return
        root.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(f".{root.name}.partial", ".", root.parent))
        try:
            _build(partial)
            _put_in_place(partial, root)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"cannot make the demo data in {root}: {error.strerror or error}; set data.root=DIR"
        ) from error


def _is_there(root: Path) -> bool:
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    manifest = root / "manifest.json"
    made = read_json(manifest) if manifest.is_file() else None
    if not isinstance(made, dict) or made.get("demo") != VERSION:
        raise InputError(
            f"{root} holds something other than version {VERSION} of the demo data: remove it, "
            f"or set data.root=DIR"
        )
    return True


def _put_in_place(partial: Path, root: Path) -> None:
    try:
        partial.rename(root)
    except OSError:
        if not _is_there(root):
            raise


def _build(directory: Path) -> None:
    captions = read_captions()
    sources = load_sources(captions.scenes)
    (directory / "pictures").mkdir()
    train = _write_split(directory, "train", train_samples(captions, sources, _SEED))
    heldout = _write_split(directory, "heldout", heldout_samples(captions, sources, _SEED))
    texts = [turn["value"] for sample in train for turn in sample["conversations"]]
    tokenizer = train_tokenizer(text.replace(PLACEHOLDER, "") for text in texts)
    tokenizer.save(str(directory / "tokenizer.json"))
    manifest = {
        "demo": VERSION,
        "train": _counts(train),
        "heldout": _counts(heldout),
        "vocabulary": tokenizer.get_vocab_size(),
        "made_with": {package: version(package) for package in _PACKAGES},
    }
    write_json(directory / "manifest.json", manifest)


def _write_split(
    directory: Path, split: str, samples: Iterable[DemoSample]
) -> list[dict[str, Any]]:
    written = [_write(directory, f"{split}-{n:04d}", sample) for n, sample in enumerate(samples)]
    write_json(directory / f"{split}.json", written)
    return written


def _write(directory: Path, name: str, sample: DemoSample) -> dict[str, Any]:
    turns = [
        {"from": speaker, "value": text}
        for turn in sample.turns
        for speaker, text in zip(("human", "gpt"), turn, strict=True)
    ]
    if sample.picture is None:
        return {"id": name, "conversations": turns}
    file = f"pictures/{name}{sample.suffix}"
    sample.picture.save(directory / file, quality=92)
    turns[0]["value"] = f"{PLACEHOLDER}\n{turns[0]['value']}"
    return {"id": name, "image": file, "conversations": turns}


def _counts(samples: list[dict[str, Any]]) -> dict[str, int]:
    return {
        "samples": len(samples),
        "pictures": sum("image" in sample for sample in samples),
        "answers": sum(len(sample["conversations"]) // 2 for sample in samples),
    }
