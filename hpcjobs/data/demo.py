"""Makes the demo data: real pictures that two packages bundle, with captions and questions."""

import importlib.util
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFont
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from hpcjobs.run.errors import InputError
from hpcjobs.run.files import make_private_dir, sync, write_json

VERSION = 1
VOCABULARY = 640
_SIDE_PX = 160
_SPECIAL = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
_WORDS = "HARBOUR TIGER LEMON WINTER CANDLE ROBOT MUSIC PLANET BRIDGE VELVET OCEAN KITE".split()
_WORD_QUESTION = "What word is written in the picture?"
_INKS = ((255, 255, 255), (255, 230, 0), (0, 0, 0), (220, 0, 40))


@dataclass(frozen=True, slots=True)
class Split:
    """How many crops of each scene, questions of each crop, and pictures of each word."""

    name: str
    seed: int
    crops: int
    questions: int
    word_pictures: int


TRAIN = Split("train", seed=1, crops=10, questions=2, word_pictures=12)
HELDOUT = Split("heldout", seed=2, crops=2, questions=2, word_pictures=2)


def prepare(root: Path) -> None:
    """Makes the data set in ``root``, unless a complete one of this version is there.

    The same package versions give the same bytes. It is built beside ``root`` and renamed, so
    that two processes may start it at once.

    Raises:
        InputError: the packages that bundle the pictures are missing, or the place cannot be
            written.
    """
    if _is_complete(root):
        return
    partial = root.with_name(f".{root.name}.{os.getpid()}.partial")
    try:
        make_private_dir(partial / "pictures")
        counts = _build(partial)
        write_json(partial / "manifest.json", {"version": VERSION, **counts})
        _publish(partial, root)
    except OSError as error:
        raise InputError(f"cannot make the demo data in {root}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _is_complete(root: Path) -> bool:
    manifest = root / "manifest.json"
    return manifest.is_file() and json.loads(manifest.read_text())["version"] == VERSION


def _publish(partial: Path, root: Path) -> None:
    sync(partial)
    if root.exists():
        stale = root.with_name(f".{root.name}.{os.getpid()}.stale")
        root.rename(stale)
        shutil.rmtree(stale, ignore_errors=True)
    try:
        partial.rename(root)
    except OSError:
        if not _is_complete(root):  # else another process was faster, with the same bytes
            raise
    sync(root.parent)


def _build(root: Path) -> dict[str, int]:
    captions = json.loads((Path(__file__).parent / "demo_captions.json").read_text("utf-8"))
    scenes = {name: Image.open(path).convert("RGB") for name, path in _sources(captions)}
    splits = {
        split.name: list(_samples(split, scenes, captions, root)) for split in (TRAIN, HELDOUT)
    }
    for name, samples in splits.items():
        write_json(root / f"{name}.json", samples)
    _train_tokenizer([sample for samples in splits.values() for sample in samples], root)
    return {"scenes": len(scenes), **{name: len(samples) for name, samples in splits.items()}}


def _sources(captions: dict[str, Any]) -> Iterator[tuple[str, Path]]:
    folders = [_package_folder("skimage", "data"), _package_folder("sklearn", "datasets/images")]
    for name in captions:
        found = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if found is None:
            raise InputError(f"the installed scikit-image and scikit-learn do not bundle {name}")
        yield name, found


def _package_folder(package: str, folder: str) -> Path:
    """A folder of an installed package, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise InputError("the demo's pictures are missing: pip install 'hpcjobs[demo]'")
    return Path(spec.origin).parent / folder


def _samples(
    split: Split, scenes: dict[str, Image.Image], captions: dict[str, Any], root: Path
) -> Iterator[dict[str, Any]]:
    """Samples of a split: crops of every scene with questions, then words on the scenes."""
    chance = np.random.Generator(np.random.PCG64(split.seed))
    for scene, picture in scenes.items():
        pairs = list(captions[scene].items())
        for crop in range(split.crops):
            name = f"pictures/{split.name}-{Path(scene).stem}-{crop}.png"
            _view(picture, chance).save(root / name)
            for index in range(split.questions):
                question, answer = pairs[(crop * split.questions + index) % len(pairs)]
                yield _sample(f"{Path(name).stem}-{index}", name, question, answer)
    for word in _WORDS:
        for index in range(split.word_pictures):
            name = f"pictures/{split.name}-word-{word.lower()}-{index}.png"
            background = list(scenes.values())[int(chance.integers(len(scenes)))]
            _write_word(_view(background, chance), word, chance).save(root / name)
            yield _sample(Path(name).stem, name, _WORD_QUESTION, f"The word is {word}.")


def _sample(name: str, picture: str, question: str, answer: str) -> dict[str, Any]:
    return {
        "id": name,
        "image": picture,
        "conversations": [
            {"from": "human", "value": f"<image>\n{question}"},
            {"from": "gpt", "value": answer},
        ],
    }


def _view(picture: Image.Image, chance: np.random.Generator) -> Image.Image:
    """A random crop of at least three quarters of each side, in another light."""
    share = chance.uniform(0.75, 1.0)
    width, height = int(picture.width * share), int(picture.height * share)
    left = int(chance.integers(picture.width - width + 1))
    top = int(chance.integers(picture.height - height + 1))
    view = picture.crop((left, top, left + width, top + height))
    view.thumbnail((_SIDE_PX, _SIDE_PX), Image.Resampling.BICUBIC)
    return ImageEnhance.Brightness(view).enhance(float(chance.uniform(0.8, 1.2)))


def _write_word(view: Image.Image, word: str, chance: np.random.Generator) -> Image.Image:
    """Writes a word on a plain band across a view, in a random place and ink."""
    font = ImageFont.load_default(size=_fitting_size(word, view.width))
    ink = _INKS[int(chance.integers(len(_INKS)))]
    height = int(font.getbbox(word)[3]) + 8
    top = int(chance.integers(max(1, view.height - height)))
    draw = ImageDraw.Draw(view)
    draw.rectangle((0, top, view.width, top + height), fill=tuple(255 - c // 2 for c in ink))
    draw.text((6, top + 3), word, fill=ink, font=font)
    return view


def _fitting_size(word: str, width_px: int) -> int:
    size = 34
    while size > 10 and ImageFont.load_default(size=size).getlength(word) > width_px - 12:
        size -= 1
    return size


def _train_tokenizer(samples: list[dict[str, Any]], root: Path) -> None:
    """A byte-level BPE with Gemma's special tokens, learnt from the samples' own text."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [turn["value"] for sample in samples for turn in sample["conversations"]]
    tokenizer.train_from_iterator([*texts, "user\nmodel\n"], trainer)
    tokenizer.save(str(root / "tokenizer.json"))
