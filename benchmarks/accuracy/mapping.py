"""What every mapper uses: models by name, and the reason why a row stays out."""

import json
from pathlib import Path
from typing import Any

Row = dict[str, str]
Fields = dict[str, Any]

MODELS: dict[str, Any] = json.loads(Path(__file__).with_name("models.json").read_text("utf-8"))


class NotCounted(Exception):  # noqa: N818
    """Why a row stays out."""


def model_of(name: str, seq_len: int = 2048) -> Any:  # noqa: ANN401
    """A preset's name or the content of a config.json."""
    entry = MODELS[name]
    if "model" in entry:
        return entry["model"]
    # MPT has the layers of GPT-2 without biases; its position table is as long as the samples.
    return {
        "model_type": "gpt2",
        "n_embd": entry["hidden"],
        "n_layer": entry["layers"],
        "n_head": entry["heads"],
        "n_positions": seq_len,
        "vocab_size": 50368,
        "activation_function": "gelu",
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    }
