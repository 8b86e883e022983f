"""The workload of a run that has run, from the ``config.json`` of its directory."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from planner.cards import Card, card_of
from planner.errors import PlannerError
from planner.read_workload import read_workload
from planner.workload import Workload

_ALLOCATOR_VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
_PROJECTIONS = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), "self_attn"),
    **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), "mlp"),
}
_NO_DIMENSION = ("norm_eps", "rope_theta", "init_std")
_SMALLEST_BUCKET = 1 << 16
_CPU_TFLOPS = 0.05
_CPU_GB_PER_S = 10.0


@dataclass(frozen=True, slots=True)
class Shape:
    """What the rows of a run's micro batches were like, padding included."""

    values: tuple[int, ...]
    """Tokens a row."""
    weights: tuple[float, ...]
    images: float
    """Pictures a row."""


def run_workload(config: Mapping[str, Any], shape: Shape, metric: str) -> Workload:
    """Describes what a run did; the shape is what was measured.

    The same facts about our own trainer stand in ``hpcjobs.login.workload_of``, which describes
    an experiment before it runs.

    Raises:
        PlannerError: the configuration lacks something: it is of another version.
    """
    try:
        return read_workload(_raw(config, shape, metric))
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, re.error) as error:
        raise PlannerError(f"its config.json is of another version ({error})") from error


def device_card(device: str) -> Card:
    """The card that a driver names; for the CPU a made-up one, so that probes can be rehearsed.

    The CPU's figures are a guess (0.05 TFLOPS, 10 GB/s): only its calibration means anything.

    Raises:
        PlannerError: the planner's table has no such card.
    """
    if device != "CPU":
        return card_of(device)
    return replace(
        card_of("T4"),
        name="CPU",
        bf16_tflops=_CPU_TFLOPS,
        fp16_tflops=_CPU_TFLOPS,
        fp32_tflops=_CPU_TFLOPS,
        measured_matmul_tflops=None,
        memory_gb_per_s=_CPU_GB_PER_S,
    )


def _raw(config: Mapping[str, Any], shape: Shape, metric: str) -> dict[str, Any]:
    train, parallel, model = config["train"], config["parallel"], config["model"]
    world = parallel["nodes"] * parallel["gpus_per_node"]
    accumulation = train["global_batch"] // (parallel["micro_batch"] * world)
    return {
        "model": _model(model),
        "method": _method(config["method"], train["precision"]),
        "image_tokens": _picture_tokens(model),
        "images_per_sample": shape.images,
        "seq_len": {"values": list(shape.values), "weights": list(shape.weights)},
        "logit_share": _logit_share(model, shape),
        "micro_batch": parallel["micro_batch"],
        "grad_accum": accumulation,
        "grad_ckpt": train["grad_checkpointing"],
        "attention": "sdpa",
        "precision": train["precision"],
        "sharding": f"zero{parallel['zero_stage']}",
        "offload": _offload(parallel),
        "gpus": world,
        "gpus_per_node": parallel["gpus_per_node"],
        "memory_metric": metric,
        "expandable_segments": _has_expandable_segments(config["cluster"]["env"]),
        "reduce_bucket": max(model["text"]["hidden"] ** 2, _SMALLEST_BUCKET),
        "workers": max(1, config["data"]["workers"]),
    }


def _offload(parallel: Mapping[str, Any]) -> str:
    """In the planner's words; a run of a version that knew no offload had none."""
    if parallel.get("offload_params") == "cpu":
        return "optimizer_params"
    return "optimizer" if parallel.get("offload_optimizer") == "cpu" else "none"


def _model(model: Mapping[str, Any]) -> dict[str, Any]:
    text = {name: value for name, value in model["text"].items() if name not in _NO_DIMENSION}
    return {"model_type": "mgm", "text": text, "vision": model["vision"], "aux": model["aux"]}


def _picture_tokens(model: Mapping[str, Any]) -> int:
    vision = model["vision"]
    return int((vision["picture_px"] // vision["patch_px"]) ** 2)


def _logit_share(model: Mapping[str, Any], shape: Shape) -> float:
    """Logits are computed where a label can be: not for pictures (hpcjobs/train/mgm/loss.py)."""
    pictures = min(shape.images, 1.0) * _picture_tokens(model)
    return max(1.0 - pictures / max(shape.values), 1.0 / max(shape.values))


def _method(method: Mapping[str, Any], precision: str) -> dict[str, Any]:
    raw = {"kind": method["kind"], "train_projector": method["train_projector"]}
    if method["kind"] != "lora":
        return raw
    return raw | {
        "r": method["rank"],
        "dropout": method["dropout"],
        "targets": _targets(method["targets"]),
        "adapter_dtype": "fp32" if precision == "fp32" else "bf16",
    }


def _targets(pattern: str) -> Sequence[str]:
    names = [
        name
        for name, part in _PROJECTIONS.items()
        if re.fullmatch(pattern, f"model.layers.0.{part}.{name}")
    ]
    return names or "all-linear"


def _has_expandable_segments(env: Mapping[str, str]) -> bool:
    """They are on unless the configuration sets the allocator itself."""
    words = [env[name] for name in _ALLOCATOR_VARIABLES if name in env]
    return not words or any("expandable_segments:True" in word for word in words)
