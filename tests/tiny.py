"""A data set and a model small enough that a training of a few steps takes seconds."""

import json
from pathlib import Path

from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from hpcjobs.login.override_word import override_word

COLOURS = {
    "red": (220, 30, 30), "green": (30, 200, 60), "blue": (40, 60, 220), "yellow": (240, 220, 40),
    "white": (250, 250, 250), "black": (10, 10, 10), "purple": (140, 40, 160), "orange": (250, 140, 20),
}  # fmt: skip
SPECIAL = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]


def write_tiny_data(root: Path, samples: int = 64, heldout: int = 16) -> Path:
    """Pictures of one colour with the question which one; returns the directory."""
    (root / "pictures").mkdir(parents=True, exist_ok=True)
    for name, colour in COLOURS.items():
        Image.new("RGB", (40, 30), colour).save(root / "pictures" / f"{name}.png")
    for file, count in (("train.json", samples), ("heldout.json", heldout)):
        (root / file).write_text(json.dumps([sample(i) for i in range(count)]))
    write_tokenizer(root / "tokenizer.json", [sample(i) for i in range(8)])
    return root


def sample(index: int) -> dict[str, object]:
    """The sample with this index; every ninth has no picture."""
    colour = list(COLOURS)[index % len(COLOURS)]
    if index % 9 == 8:
        return {"id": f"s{index}", "conversations": turns("What is the sky?", "The sky is blue.")}
    return {
        "id": f"s{index}",
        "image": f"pictures/{colour}.png",
        "conversations": turns("<image>\nWhich colour is it?", f"The colour is {colour}."),
    }


def turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def write_tokenizer(path: Path, samples: list[dict[str, object]]) -> None:
    """A byte-level BPE tokenizer with Gemma's special tokens."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIAL,
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [turn["value"] for s in samples for turn in s["conversations"]]
    tokenizer.train_from_iterator([*texts, "user\nmodel\n"], trainer)
    tokenizer.save(str(path))


def tiny_words(root: Path, **changes: object) -> list[str]:
    """Hydra words for a tiny training on that data, on the CPU, on this machine."""
    words = {
        "+experiment": "mgm_lora_demo",
        "name": "tiny",
        "data.builtin": "null",
        "data.root": root,
        "model.tokenizer": f"{root}/tokenizer.json",
        "model.max_length": 128,
        "model.text.hidden": 32,
        "model.text.layers": 2,
        "model.text.heads": 2,
        "model.text.head_dim": 16,
        "model.text.intermediate": 64,
        "model.vision.hidden": 32,
        "model.vision.layers": 2,
        "model.vision.heads": 2,
        "model.vision.intermediate": 64,
        "model.vision.picture_px": 32,
        "model.vision.patch_px": 8,
        "model.aux.picture_px": 64,
        "model.aux.widths": "[8,8,16,16]",
        "model.aux.depths": "[1,1,1,1]",
        "parallel.device": "cpu",
        "parallel.micro_batch": 2,
        "train.global_batch": 8,
        "train.steps": 6,
        "train.checkpoint.every_steps": 2,
        "cluster": "local",
    }
    words.update({key.replace("__", "."): value for key, value in changes.items()})
    return [
        f"{key}={value}" if str(value).startswith("[") else override_word(key, value)
        for key, value in words.items()
    ]
