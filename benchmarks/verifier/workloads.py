"""The workloads of the sweep, those that teach most first."""

from collections.abc import Iterable, Iterator
from typing import Any

from models import config_of

Row = tuple[str, dict[str, Any]]
"""The model's name with its layers, and the workload."""

_BASE: dict[str, Any] = {
    "method": "lora",
    "seq_len": 2048,
    "attention": "sdpa",
    "sharding": "zero2",
    "gpus": 8,
    "memory_metric": "allocated",
}
_ONE = {"sharding": "none", "gpus": 1}
_OFF = {"grad_ckpt": False}
_EAGER = {"attention": "eager", "seq_len": 1024}


def _lora(**words: object) -> dict[str, Any]:
    return {"method": {"kind": "lora", **words}}


def _full(sharding: str, **words: object) -> dict[str, Any]:
    gpus = {"gpus": 1} if sharding == "none" else {}
    return {"method": "full", "sharding": sharding, **gpus, **words}


# One change at a time around ZeRO-2 LoRA, then combinations that meet in practice.
_VARIATIONS: tuple[dict[str, Any], ...] = (
    {},
    _OFF,
    _ONE,
    {**_ONE, **_OFF},
    _full("zero2"),
    _full("zero2", **_OFF),
    _full("none"),
    _full("none", **_OFF),
    _full("zero3"),
    {"sharding": "zero3"},
    _EAGER,
    {**_EAGER, **_OFF},
    _lora(dropout=0.05),
    {**_lora(dropout=0.05), **_OFF},
    {**_lora(dropout=0.05), **_OFF, **_ONE},
    {"micro_batch": 4},
    {"micro_batch": 4, "seq_len": 512, **_OFF},
    {"seq_len": 4096},
    {"seq_len": 512, **_ONE},
    {"sharding": "zero0"},
    {"sharding": "zero1"},
    {"sharding": "ddp"},
    _full("zero0"),
    _full("zero1"),
    _full("ddp"),
    _full("zero3", **_OFF),
    {"sharding": "zero3", **_OFF},
    {**_lora(targets="attention"), **_OFF},
    _lora(r=128),
    {**_lora(r=128), "sharding": "zero3", "gpus": 2},
    {"loss": "no_upcast"},
    _full("zero2", loss="no_upcast", gpus=64),
    {"precision": "fp32"},
    _full("zero2", precision="fp32"),
    {"grad_accum": 4, "sharding": "zero1"},
    _full("zero1", grad_accum=4),
    _full("zero2", grad_accum=4),
    _full("zero2", reduce_bucket=50_000_000, gpus=2),
    _full("zero2", seq_len=512, gpus=64),
    _full("none", seq_len=512, micro_batch=2),
    {**_lora(adapter_dtype="bf16"), **_ONE, **_OFF},
    {"seq_len": 512},
)
_FEW: tuple[dict[str, Any], ...] = (
    {},
    {**_ONE, **_OFF},
    {**_EAGER, **_OFF},
    _full("zero2"),
    _full("none", **_OFF),
    {"sharding": "zero3", **_lora(dropout=0.05), **_OFF},
    {**_lora(dropout=0.05, r=64), "seq_len": 1024, "micro_batch": 2},
)
_MGM: tuple[dict[str, Any], ...] = (
    {},
    _OFF,
    {"seq_len": 1024},
    {"seq_len": 4096},
    {"seq_len": 704, "micro_batch": 4},
    {"seq_len": 704, "micro_batch": 8, **_OFF},
    {"seq_len": 1024, "micro_batch": 2, **_OFF},
    {"seq_len": 2048, "micro_batch": 8},
    _lora(dropout=0.1),
    {**_lora(dropout=0.1), **_OFF},
    {"sharding": "zero0"},
    {"sharding": "zero1"},
    {"sharding": "zero3"},
    _ONE,
    {"reduce_bucket": 2048 * 2048, "gpus": 4, **_lora(dropout=0.1)},
    {"reduce_bucket": 2048 * 2048, "gpus": 4, **_lora(dropout=0.1), "micro_batch": 2, **_OFF},
    {"method": "projector"},
    {"method": "projector", "seq_len": 1024, "micro_batch": 8},
    _full("zero2"),
    _full("zero2", **_OFF),
    _full("zero1", gpus=4, micro_batch=2),
    _full("zero0", seq_len=1024),
    {"images_per_sample": 2},
    {"images_per_sample": 3, "micro_batch": 2},
    _EAGER,
    {**_EAGER, **_OFF},
    {"precision": "fp32", "seq_len": 1024},
    _lora(train_projector=False),
)
_VLM: tuple[dict[str, Any], ...] = (
    {},
    _OFF,
    {**_ONE, **_OFF},
    {"towers": "trainable"},
    {"towers": "trainable", **_OFF},
    {"towers": "lora"},
    {"towers": "lora", **_OFF},
    _full("zero2"),
    _full("zero2", towers="trainable", **_OFF),
    _full("zero3", towers="trainable"),
    {"method": "projector", "micro_batch": 4, "seq_len": 704},
    {"sharding": "zero3"},
    {"images_per_sample": 2, "micro_batch": 2},
    {"images_per_sample": 5, "seq_len": 4096, "towers": "trainable"},
    _EAGER,
)
_SEVEN: tuple[dict[str, Any], ...] = (
    {},
    {"sharding": "zero3", "gpus": 16},
    _full("zero2", gpus=16),
)

_EMBEDDINGS: tuple[dict[str, Any], ...] = (
    _lora(train_embeddings=True, train_head=True),
    {**_lora(train_embeddings=True, train_head=True), **_ONE, "seq_len": 1024},
)

_ANCHORS = (("gemma-2b", 4), ("llama-2-7b", 4), ("qwen2.5-1.5b", 4))
_TEXTS = (
    ("mistral-7b", 2), ("qwen2.5-0.5b", 2), ("phi-2", 2), ("pythia-1.4b", 2), ("gpt2-large", 2),
    ("qwen3-1.7b", 2), ("gemma-3-1b", 2), ("opt-1.3b", 2), ("llama-3.2-1b", 2), ("phi-3-mini", 2),
    ("qwen2.5-7b", 2), ("llama-3.1-8b", 2),
)  # fmt: skip
_FULL_SIZE = (("gemma-2b", None), ("llama-2-7b", None), ("mistral-7b", None))


def rows() -> Iterator[Row]:
    """Every workload once: first those around the anchors and MGM, then the breadth."""
    around = [_cross([anchor], _VARIATIONS) for anchor in _ANCHORS]
    yield from _turns([*(rows[:30] for rows in around), _cross([("mgm-2b", None)], _MGM)])
    yield from _turns([_cross([text], _FEW) for text in _TEXTS])
    yield from _cross([("llava-1.5-7b", 2)], _VLM)
    yield from _cross([("gemma-2-2b", 2)], [_EAGER | words for words in (_OFF, {}, _full("zero2"))])
    yield from _cross([("paligemma-3b", 2)], _VLM[:4])
    yield from _cross([*_FULL_SIZE, ("llava-1.5-7b", None)], [{}])
    yield from _turns([rows[30:] for rows in around])
    yield from _cross(_FULL_SIZE[:2], _SEVEN[1:])
    yield from _cross([("llama-2-7b", 2)], _EMBEDDINGS)


def _cross(
    models: Iterable[tuple[str, int | None]], variations: Iterable[dict[str, Any]]
) -> list[Row]:
    return [
        (
            f"{name}/{layers}" if layers else name,
            {**_BASE, **words, "model": config_of(name, layers)},
        )
        for name, layers in models
        for words in variations
    ]


def _turns(lists: list[list[Row]]) -> Iterator[Row]:
    """One of each list in turn, until all are empty."""
    longest = max(map(len, lists))
    for index in range(longest):
        for items in lists:
            if index < len(items):
                yield items[index]
