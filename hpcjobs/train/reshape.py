"""ZeRO states of a checkpoint for another number of processes, or another of ZeRO's stages 1 to 3.

DeepSpeed loads a checkpoint only with the world size that wrote it. Every rank's file holds flat
fp32 parts: of the trained weights and of both of Adam's averages. Which values of which parameter
they are follows from the parameters' shapes, the stage and the number of parts; so each value can
be copied to where the new layout wants it, exactly.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hpcjobs.run.errors import InputError

_WEIGHT = "weight"
_AVERAGES = ("exp_avg", "exp_avg_sq")

Shapes = Mapping[str, Sequence[int]]
"""Parameters of one flat group by name, in its order."""
Flat = Mapping[str, Tensor]
"""A flat part: weights and averages at the same places."""


@dataclass(frozen=True, slots=True)
class Span:
    """A run of one parameter's values that lies in a flat part."""

    name: str
    first: int
    """Within the flattened parameter."""
    numel: int
    offset: int
    """Within the part."""


@dataclass(frozen=True, slots=True)
class States:
    """What the ranks' files of a checkpoint hold together."""

    pieces: Mapping[str, Sequence[tuple[Span, Flat]]]
    """Where every parameter's values lie."""
    adam_step: Tensor
    scaler: Mapping[str, Any]
    """Of fp16's loss scale."""


def spans(shapes: Shapes, stage: int, parts: int, part: int, part_numel: int) -> list[Span]:
    """What one part of a flat group holds.

    Stages 1 and 2 lay the parameters end to end and cut the whole into equal parts. Stage 3 cuts
    each parameter into equal parts, the last of them padded.

    Args:
        shapes: the group's parameters.
        stage: 1 to 3.
        parts: number of parts, the world size.
        part: which of them.
        part_numel: length of a part at stages 1 and 2, padding included.

    >>> spans({"a": [4], "b": [3]}, 2, 2, 1, 4)
    [Span(name='b', first=0, numel=3, offset=0)]
    >>> spans({"a": [4], "b": [3]}, 3, 2, 1, 4)
    [Span(name='a', first=2, numel=2, offset=0), Span(name='b', first=2, numel=1, offset=2)]
    """
    found, place = [], 0
    for name, shape in shapes.items():
        numel = prod(shape)
        if stage == 3:
            cut = -(-numel // parts)
            first, last, offset = part * cut, min(numel, (part + 1) * cut), place
            place += cut
        else:
            begin = part * part_numel
            first, last = max(0, begin - place), min(numel, begin + part_numel - place)
            offset = place + first - begin
            place += numel
        if first < last:
            found.append(Span(name, first, last - first, offset))
    return found


def overlaps(wanted: Span, pieces: Sequence[tuple[Span, Flat]]) -> Iterator[tuple[slice, Flat]]:
    """Yields where in the wanted part values go, and the values."""
    for span, values in pieces:
        first = max(wanted.first, span.first)
        last = min(wanted.first + wanted.numel, span.first + span.numel)
        if first < last:
            target = wanted.offset + first - wanted.first
            source = span.offset + first - span.first
            cut = {key: tensor[source : source + last - first] for key, tensor in values.items()}
            yield slice(target, target + last - first), cut


def read_states(directory: Path, stage: int, parts: int) -> States:
    """Opens the ranks' files of a checkpoint; values are read from disk when they are copied.

    Args:
        directory: a checkpoint that was verified: DeepSpeed's files are pickles.
        stage: 1 to 3, as its manifest says.
        parts: the world size that wrote it.

    Raises:
        InputError: the files are not as DeepSpeed 0.19 writes them.
    """
    shapes = read_model_states(directory)["param_shapes"]
    pieces: dict[str, list[tuple[Span, Flat]]] = {}
    states = [_optimizer_states(directory, rank) for rank in range(parts)]
    for rank, state in enumerate(states):
        for group, flat in zip(shapes, _flats(state, stage), strict=True):
            for span in spans(group, stage, parts, rank, flat[_AVERAGES[0]].numel()):
                pieces.setdefault(span.name, []).append((span, flat))
    _check_complete(pieces, shapes, directory)
    inner = _inner(states[0], stage)
    scaler = {key: states[0][key] for key in ("loss_scaler", "dynamic_loss_scale", "overflow")}
    return States(pieces, inner["state"][0]["step"], scaler)


def read_model_states(directory: Path) -> dict[str, Any]:
    """What DeepSpeed saved besides the optimizer's states: counters, rate, our own progress."""
    names = ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt")
    path = next((directory / name for name in names if (directory / name).exists()), None)
    if path is None:
        raise InputError(f"{directory} holds no model states")
    states: dict[str, Any] = _open(path)
    return states


def _optimizer_states(directory: Path, rank: int) -> dict[str, Any]:
    ending = f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
    for path in (directory / ending, directory / f"bf16_{ending}"):
        if path.exists():
            states: dict[str, Any] = _open(path)["optimizer_state_dict"]
            return states
    raise InputError(f"{directory} holds no {ending}, which its manifest speaks of")


def _open(path: Path) -> Any:  # noqa: ANN401
    return torch.load(path, map_location="cpu", mmap=True, weights_only=False)


def _inner(states: Mapping[str, Any], stage: int) -> Mapping[str, Any]:
    key = "optimizer_state_dict" if stage == 3 else "base_optimizer_state"
    inner: Mapping[str, Any] = states[key]
    return inner


def _flats(states: Mapping[str, Any], stage: int) -> list[Flat]:
    weights = states["fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"]
    averages = _inner(states, stage)["state"]
    return [
        {_WEIGHT: weight.detach(), **{key: averages[number][key] for key in _AVERAGES}}
        for number, weight in enumerate(weights)
    ]


def _check_complete(
    pieces: Mapping[str, Sequence[tuple[Span, Flat]]], shapes: Sequence[Shapes], directory: Path
) -> None:
    for name, shape in (entry for group in shapes for entry in group.items()):
        if sum(span.numel for span, _ in pieces.get(name, ())) != prod(shape):
            raise InputError(f"{directory} does not hold all of {name}")


def whole_weights(directory: Path, stage: int, parts: int) -> dict[str, Tensor]:
    """The trained weights of a checkpoint by name, in fp32 at stages 1 to 3."""
    module = read_model_states(directory)
    if stage == 0:
        weights: dict[str, Tensor] = module["module"]
        return weights
    states = read_states(directory, stage, parts)
    whole = {}
    for name, shape in (entry for group in module["param_shapes"] for entry in group.items()):
        whole[name] = torch.empty(prod(shape))
        _fill({_WEIGHT: whole[name]}, Span(name, 0, prod(shape), 0), states)
        whole[name] = whole[name].view(*shape)
    return whole


def _fill(target: Flat, span: Span, states: States) -> None:
    for place, values in overlaps(span, states.pieces[span.name]):
        for key, tensor in target.items():
            tensor[place].copy_(values[key])


def load_reshaped(engine: Any, directory: Path, stage: int, parts: int) -> dict[str, Any]:  # noqa: ANN401
    """Loads a checkpoint of another world size, or of another stage from 1 to 3, into an engine.

    Args:
        engine: a new engine of stage 1 to 3, whose trained parameters are those of the run.
        directory: a checkpoint that was verified.
        stage: the stage that wrote it.
        parts: the world size that wrote it.

    Returns:
        What DeepSpeed saved besides, with our own progress in it.

    Raises:
        InputError: the checkpoint is of other parameters.
    """
    saved, states = read_model_states(directory), read_states(directory, stage, parts)
    now = engine.zero_optimization_stage()
    groups = engine._get_zero_param_shapes()  # noqa: SLF001 - in the order of the flat groups
    optimizer = engine.optimizer
    for shapes, weight in zip(groups, _own_weights(optimizer, now), strict=True):
        _refuse_others(shapes, states, directory)
        averages = {key: torch.zeros_like(weight.data) for key in _AVERAGES}
        flat = {_WEIGHT: weight.data, **averages}
        mine = (engine.global_rank, weight.numel())
        for span in spans(shapes, now, engine.world_size, *mine):
            _fill(flat, span, states)
        optimizer.optimizer.state[weight] = {"step": states.adam_step.clone(), **averages}
    _spread(optimizer, now, states.scaler)
    _restore_counters(engine, saved)
    return saved


def _own_weights(optimizer: Any, stage: int) -> list[Tensor]:  # noqa: ANN401
    """This rank's flat fp32 parts."""
    name = "fp32_partitioned_groups_flat" if stage == 3 else "single_partition_of_fp32_groups"
    parts: list[Tensor] = getattr(optimizer, name)
    return parts


def _refuse_others(shapes: Shapes, states: States, directory: Path) -> None:
    strange = [name for name in shapes if name not in states.pieces]
    if strange:
        raise InputError(f"{directory} is of other parameters: it has no {strange[0]}")


def _spread(optimizer: Any, stage: int, scaler: Mapping[str, Any]) -> None:  # noqa: ANN401
    """Brings the weights that compute in line with the fp32 ones, on all ranks."""
    for key, value in scaler.items():
        setattr(optimizer, key, value)
    if stage < 3:
        optimizer.update_lp_params()
        return
    optimizer.checkpoint_event_prologue()
    parts = {"fp32_flat_groups": optimizer.fp32_partitioned_groups_flat, **scaler}
    optimizer._rigid_load_state_dict(parts, load_optimizer_states=False)  # noqa: SLF001
    if optimizer.persistent_parameters:
        optimizer.persistent_parameters[0].partition(optimizer.persistent_parameters)
    optimizer.checkpoint_event_epilogue()


def _restore_counters(engine: Any, saved: Mapping[str, Any]) -> None:  # noqa: ANN401
    for name in ("global_steps", "global_samples", "skipped_steps"):
        setattr(engine, name, saved[name])
    engine.lr_scheduler.load_state_dict(saved["lr_scheduler"])
    rates = engine.lr_scheduler.get_last_lr()
    for group, rate in zip(engine.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
