"""The published measurements as workloads with what was measured, in one unit each."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.accuracy.mappers import MAPPERS
from benchmarks.accuracy.mapping import MODELS, NotCounted
from benchmarks.accuracy.sources import SOURCES, Source
from benchmarks.accuracy.vision_mappers import mgm

TABLE = Path(__file__).with_name("measured_runs.csv")
TIERS = ("A", "B", "OOM", "BOUND")

# Spellings of cards that no table of cards has.
_CARDS = {"A100 40GB SXM": "A100-SXM4-40GB", "A6000 Ada 48GB": "RTX 6000 Ada"}
_BUDGETS = {40: "A100-SXM4-40GB", 80: "A100-SXM4-80GB", 24: "RTX 3090", 48: "RTX A6000"}


@dataclass(frozen=True, slots=True)
class Row:
    """One published run."""

    id: str
    source: str
    """Key of ``SOURCES``."""
    tier: str
    text: bool
    family: str
    kind: str
    """full, lora, qlora or projector."""
    workload: dict[str, Any]
    measured_bytes: float | None
    step_s: float | None
    """Seconds of one optimizer step."""
    fits: bool
    """True where it ran or is said to fit, False where it ran out of memory."""
    budget_bytes: float | None = None
    """The memory of the row's own card, where it is no known card."""


@cache
def mapped() -> tuple[tuple[Row, ...], dict[str, tuple[str, ...]]]:
    """Rows that count, and by reason the ids of those of tiers A, B, OOM and BOUND that do not."""
    rows, reasons = [], dict[str, list[str]]()
    for raw in _table():
        try:
            rows.append(_row(raw))
        except NotCounted as reason:
            reasons.setdefault(str(reason), []).append(raw["id"])
    return tuple(rows), {reason: tuple(ids) for reason, ids in reasons.items()}


def _table() -> Iterator[dict[str, str]]:
    with TABLE.open(encoding="utf-8", newline="") as lines:
        for raw in csv.DictReader(lines):
            if raw["tier"].split()[0] in TIERS:
                yield raw


def _row(raw: dict[str, str]) -> Row:
    key, fields = _fields(raw)
    source = SOURCES[key]
    name = fields.pop("_model")
    workload = _common(raw) | source.workload | fields | {"id": raw["id"]}
    workload["memory_metric"] = source.metric or "process"
    budget = _budget(raw)
    method = workload["method"]
    return Row(
        id=raw["id"],
        source=key,
        tier=raw["tier"],
        text=raw["modality"].startswith("text"),
        family=MODELS[name]["family"] if name in MODELS else "mgm",
        kind=method if isinstance(method, str) else method["kind"],
        workload=workload,
        measured_bytes=_memory(raw, source),
        step_s=_step_s(raw, workload),
        fits=_verdict(raw),
        budget_bytes=budget,
    )


def _fields(raw: dict[str, str]) -> tuple[str, dict[str, Any]]:
    prefix = raw["id"].rsplit("-", 1)[0]
    if prefix == "bound":
        if raw["id"] in ("bound-01", "bound-02"):
            raise NotCounted("says the same as llava-27 and llava-28")
        return "mgm", mgm(raw)
    key, mapper = MAPPERS[prefix]
    if prefix == "minicpmv":
        key += "-zero3" if raw["zero_offload_fsdp"].startswith("zero3") else "-zero2"
    return key, mapper(raw)


def _common(raw: dict[str, str]) -> dict[str, Any]:
    common: dict[str, Any] = {"gpus": int(float(raw["gpus"] or 1))}
    if raw["micro_batch"]:
        common["micro_batch"] = int(float(raw["micro_batch"]))
    common["gpu"] = _card(raw["gpu_type"])
    return common


def _card(text: str) -> str:
    plain = re.sub(r"\s*\(.*?\)", "", text).strip()
    if "V100" in plain or not plain or "VRAM budget" in plain or plain.endswith("card"):
        size = re.search(r"(\d+) ?GB", plain)
        return _BUDGETS.get(int(size[1]) if size else 80, "A100-SXM4-80GB")
    if plain.startswith("A100 40G or"):
        return "A100-SXM4-40GB"
    plain = {"a100_40gb": "A100-SXM4-40GB", "a100_80gb": "A100-SXM4-80GB"}.get(plain, plain)
    plain = {"h100_80gb": "H100-SXM5", "H100 80GB SXM": "H100-SXM5"}.get(plain, plain)
    return _CARDS.get(plain, plain)


def _budget(raw: dict[str, str]) -> float | None:
    size = re.search(r"(\d+) GB VRAM budget", raw["gpu_type"])
    return float(size[1]) * (1 << 30) if size else None


def _memory(raw: dict[str, str], source: Source) -> float | None:
    if not raw["measured_peak_mem_per_gpu"] or raw["tier"] not in ("A", "B"):
        return None
    return float(raw["measured_peak_mem_per_gpu"]) * source.unit_bytes


def _verdict(raw: dict[str, str]) -> bool:
    return raw["tier"] != "OOM" and "OOM" not in raw["mem_as_printed"]


def _step_s(raw: dict[str, str], workload: dict[str, Any]) -> float | None:
    """Seconds of an optimizer step, from the unit of the row's source."""
    if not raw["time_value"]:
        return None
    value, unit = float(raw["time_value"]), raw["time_unit"]
    samples = workload.get("micro_batch", 1) * workload.get("grad_accum", 1)
    if unit.startswith("s/iter"):
        return value
    if unit.startswith("samples/s"):
        return samples / value
    if unit.startswith("tokens/s/GPU"):
        return samples * workload["seq_len"] / value
    if unit.startswith("min per 1000"):
        return workload["grad_accum"] * value * 60 / 1000
    if unit.startswith("s total for 1024"):
        return (
            None if "slow PCIe" in raw["gpu_type"] else value / (1024 / samples / workload["gpus"])
        )
    if unit.startswith("hours total"):
        return value * 3600 * samples * workload["gpus"] / workload["samples"]
    raise ValueError(f"{raw['id']}: no rule for {unit}")
