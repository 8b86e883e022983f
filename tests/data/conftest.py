"""Tokenizers, and the demo data, which is made once."""

from pathlib import Path

import pytest
import tiny
from tokenizers import AddedToken, Tokenizer, models, normalizers

from hpcjobs.data import demo
from hpcjobs.data.template import SPECIAL_TOKENS, load_tokenizer


@pytest.fixture(scope="session")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Byte-level BPE, as the demo's."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tiny.write_tokenizer(path, [tiny.sample(i) for i in range(8)])
    return load_tokenizer(path)


@pytest.fixture(scope="session")
def gemma_like(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """As Gemma's: spaces become a sign, bytes catch the rest, and two line breaks are one token."""
    letters = [chr(c) for c in range(33, 127)] + ["\n", "▁", "\n\n", "th", "the"]
    names = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", "<unk>"]
    names += [f"<0x{byte:02X}>" for byte in range(256)] + letters
    merges = [("\n", "\n"), ("t", "h"), ("th", "e")]
    tokenizer = Tokenizer(
        models.BPE(
            {name: i for i, name in enumerate(names)}, merges, unk_token="<unk>", byte_fallback=True
        )
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return load_tokenizer(path)


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    root = tmp_path_factory.mktemp("demo") / "data"
    demo.prepare(root)
    return root
