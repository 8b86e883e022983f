"""How far the planner's step times are from what was measured, before and after three runs."""

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from benchmarks.accuracy.predictions import Answer
from planner.calibration.fit import fit_time, time_at
from planner.calibration.observation import Key, TimeObservation

PROBES = 3


def time_summary(answers: Iterable[Answer]) -> dict[str, Any]:
    """By method, macro-averaged over sources."""
    errors: dict[str, dict[str, list[tuple[str, float]]]] = {}
    for one in answers:
        if one.row.step_s and one.step_s:
            found = errors.setdefault(one.row.kind, {}).setdefault(one.row.source, [])
            found.append((one.row.id, one.step_s / one.row.step_s - 1.0))
    return {kind: _kind(sources) for kind, sources in errors.items()}


def _kind(sources: dict[str, list[tuple[str, float]]]) -> dict[str, Any]:
    return {
        "rows": sum(len(errors) for errors in sources.values()),
        "macro_mape": round(100 * fmean(_mean(errors) for errors in sources.values()), 1),
        "by_source": {name: _source(errors) for name, errors in sources.items()},
    }


def _mean(errors: Sequence[tuple[str, float]]) -> float:
    return fmean(abs(error) for _, error in errors)


def _source(errors: Sequence[tuple[str, float]]) -> dict[str, Any]:
    worst = max(errors, key=lambda entry: abs(entry[1]))
    return {
        "rows": len(errors),
        "mape": round(100 * _mean(errors), 1),
        "bias": round(100 * fmean(error for _, error in errors), 1),
        "worst": f"{worst[0]} {100 * worst[1]:+.0f} %",
    }


def calibrated(answers: Iterable[Answer]) -> dict[str, Any]:
    """After three runs of the same model: the shortest, the middle and the longest step.

    The other runs of the model are scored; models with fewer than five rows do not count.
    """
    errors: dict[str, dict[str, list[tuple[str, float]]]] = {}
    for group in _groups(answers).values():
        if len(group) < PROBES + 2:
            continue
        probes = _spread(group)
        levels = fit_time([_observation(one) for one in probes])
        for one in group:
            if one in probes:
                continue
            seen = _observation(one)
            said = float(time_at(levels, seen.key, seen.floor_s, seen.line_s, seen.fixed_s))
            found = errors.setdefault(one.row.kind, {}).setdefault(one.row.source, [])
            found.append((one.row.id, said / seen.measured_s - 1.0))
    return {kind: _kind(sources) for kind, sources in errors.items()}


def _groups(answers: Iterable[Answer]) -> dict[tuple[Any, ...], list[Answer]]:
    """Runs of one model, method, wrapper, card and checkpointing."""
    groups: dict[tuple[Any, ...], list[Answer]] = {}
    for one in answers:
        if one.row.step_s and one.step_s:
            load = one.workload
            key = (
                one.row.source,
                one.architecture.name,
                one.row.kind,
                load.method.bits,
                load.method.train_embeddings,
                load.sharding,
                load.gpu,
                load.gpus,
                load.grad_ckpt.language_model,
                one.architecture.language_model.hidden,
            )
            groups.setdefault(key, []).append(one)
    return groups


def _spread(group: Sequence[Answer]) -> list[Answer]:
    ordered = sorted(group, key=lambda one: one.row.step_s or 0.0)
    return [ordered[0], ordered[len(ordered) // 2], ordered[-1]]


def _observation(one: Answer) -> TimeObservation:
    load = one.workload
    key = Key(
        method=load.method.kind,
        quant=f"{load.method.bits}bit" if load.method.kind == "qlora" else "none",
        attention=load.attention,
        card=load.gpu,
        model=f"{one.architecture.name} {load.sharding}",
    )
    return TimeObservation(
        run=one.row.id,
        key=key,
        measured_s=one.row.step_s or 0.0,
        floor_s=one.floor_s,
        line_s=one.line_s,
        fixed_s=one.fixed_s,
    )
