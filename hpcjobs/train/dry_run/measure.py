"""Two training steps of one rank, measured by phase."""

import gc
import resource
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from hpcjobs.train.dry_run.batch import Batch, hf_batch, labelled_tokens, mgm_batch
from hpcjobs.train.dry_run.engines import Engine, build_engine, micro_batches
from hpcjobs.train.dry_run.fake import (
    dropout_as_on_cuda,
    empty_like,
    fake_tensors,
    materialise,
)
from hpcjobs.train.dry_run.hf_model import build_hf_model
from hpcjobs.train.dry_run.live_tensors import LiveTensors, ModuleNames
from hpcjobs.train.dry_run.mgm_model import build_mgm_model, is_mgm, unchecked_placeholders
from hpcjobs.train.dry_run.request import Request

_STEPS = 2
_STEP_PHASES = ("forward", "backward", "step")

Phases = dict[str, dict[str, int]]


def measure(request: Request, largest: int = 20, fake: bool = True) -> dict[str, Any]:
    """Runs the engine for two optimizer steps and counts the bytes of live tensors.

    A process group must have been joined, a fake one or (with ``fake=False``) a real one.

    Args:
        request: the workload.
        largest: groups of tensors at the peak to name.
        fake: whether tensors have no memory; real ones are random.

    Returns:
        JSON values: ``parameters``, ``trainable``, ``phases`` (``init``, and the steady second
        step's ``forward``, ``backward`` and ``step``, each ``current_bytes`` at its end and
        ``peak_bytes``), ``peak_bytes`` and ``peak_phase`` over the steps without ``init``,
        ``largest``, ``notes``, ``seconds`` and ``rss_bytes``.
    """
    started = time.perf_counter()
    dtype = torch.float32 if request.precision == "fp32" else torch.bfloat16
    model = (build_mgm_model if is_mgm(request.config) else build_hf_model)(request, dtype)
    model.train()
    labelled = labelled_tokens(request) if is_mgm(request.config) else 1
    with fake_tensors(labelled) if fake else nullcontext():
        materialise(model, empty_like if fake else _random_like)
        answer = _trace(model, request, dtype, largest)
    return {
        **_counts(model),
        **answer,
        "notes": list(request.notes),
        "seconds": round(time.perf_counter() - started, 2),
        "rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _trace(model: nn.Module, request: Request, dtype: torch.dtype, largest: int) -> dict[str, Any]:
    names = ModuleNames({id(module): name for name, module in model.named_modules()})
    live = LiveTensors([*model.parameters(), *model.buffers()], names)
    names.watch()
    try:
        with live, unchecked_placeholders(), dropout_as_on_cuda():
            live.begin("init")
            engine = build_engine(model, request)
            gc.collect()
            phases = {"init": _figures(live)}
            live.forget_highest()
            batch = _batch(model, request, dtype)
            for _ in range(_STEPS):
                phases |= _step(engine, batch, micro_batches(request), live)
    finally:
        names.stop()
    peaks = {name: phases[name]["peak_bytes"] for name in _STEP_PHASES}
    return {
        "phases": phases,
        "peak_bytes": live.highest_bytes,
        "peak_phase": max(peaks, key=peaks.__getitem__),
        "ops": live.ops,
        "largest": live.largest_at_peak(largest),
    }


def _batch(model: nn.Module, request: Request, dtype: torch.dtype) -> Batch:
    if is_mgm(request.config):
        return mgm_batch(request, dtype)
    return hf_batch(model, request, dtype)


def _step(engine: Engine, batch: Batch, micros: int, live: LiveTensors) -> Phases:
    """One optimizer step; a phase's peak is the highest over the micro batches."""
    phases: Phases = {}
    for micro in range(micros):
        _begin("forward", live)
        loss = engine.forward(batch)
        _keep_higher(phases, "forward", live)
        _begin("backward", live)
        engine.backward(loss)
        del loss
        _keep_higher(phases, "backward", live)
        _begin("step", live)
        engine.step(is_last=micro == micros - 1)
        _keep_higher(phases, "step", live)
    return phases


def _begin(phase: str, live: LiveTensors) -> None:
    """Tensors in reference cycles live until Python looks for them, sooner or later: now."""
    gc.collect()
    live.begin(phase)


def _keep_higher(phases: Phases, name: str, live: LiveTensors) -> None:
    gc.collect()
    new, old = _figures(live), phases.get(name, {})
    phases[name] = {key: max(value, old.get(key, 0)) for key, value in new.items()}


def _figures(live: LiveTensors) -> dict[str, int]:
    return {"current_bytes": live.current_bytes, "peak_bytes": live.peak_bytes}


def _counts(model: nn.Module) -> dict[str, int]:
    parameters = list(model.parameters())
    return {
        "parameters": sum(_size(p) for p in parameters),
        "trainable": sum(_size(p) for p in parameters if p.requires_grad),
    }


def _size(parameter: Tensor) -> int:
    """Elements; ZeRO-3 leaves an empty tensor behind and keeps the count beside it."""
    size: Callable[[], int] | int = getattr(parameter, "ds_numel", parameter.numel)
    return int(size() if callable(size) else size)


def _random_like(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return torch.zeros(tensor.shape, dtype=tensor.dtype)
    return torch.empty(tensor.shape, dtype=tensor.dtype).normal_(0, 0.02)
