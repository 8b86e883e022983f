"""One workload in, one prediction out."""

import math
from typing import Any

from planner.architecture import Architecture
from planner.cards import Card, assumed_card, card_of
from planner.cost import cost_of
from planner.errors import PlannerError
from planner.layout import Layout, layout_of
from planner.memory.peak import memory_of
from planner.models.older_decoders import LEARNED_POSITIONS
from planner.models.read import architecture_of, assumptions_of
from planner.prediction import GIB, Memory, Prediction
from planner.time.communication import default_node_gb_per_s
from planner.time.hours import hours_of
from planner.time.step import step_time_of
from planner.workload import Workload


def estimate(workload: Workload) -> Prediction:
    """Predicts memory, time and cost of one workload.

    Raises:
        PlannerError: the model or the card is not known, or they do not go together.
    """
    architecture = architecture_of(workload.model)
    check_together(architecture, workload)
    return predict(architecture, workload, layout_of(workload), card_of(workload.gpu))


def predict(
    architecture: Architecture, workload: Workload, layout: Layout, card: Card
) -> Prediction:
    """The same for a layout and a card that are known; the layout may hold arrays."""
    memory = memory_of(architecture, workload, layout)
    step = step_time_of(architecture, workload, layout, card)
    hours = hours_of(architecture, workload, layout, step, memory.checkpoint_bytes)
    cost = cost_of(hours, layout, card, price=workload.price_per_gpu_hour) if hours else None
    return Prediction(
        fits=bool(memory.needed_p95_bytes <= card.usable_bytes),
        memory=memory,
        step=step,
        hours=hours,
        cost=cost,
        binding=binding_component(memory),
        notes=notes_of(architecture, workload, card),
    )


def binding_component(memory: Memory) -> str:
    """The component that takes most of the peak."""
    return max(memory.components, key=lambda name: float(memory.components[name]))


def notes_of(architecture: Architecture, workload: Workload, card: Card) -> tuple[str, ...]:
    """What a reader must know before trusting the figures."""
    notes = list(assumptions_of(workload.model))
    if not architecture.exact:
        notes.append(f"the parameters of {architecture.name} are approximated")
    longest, positions = max(workload.seq_len.values), architecture.max_positions
    if 1 < positions < longest:
        notes.append(f"seq_len ({longest}) is above the {positions} positions of the model")
    notes += _notes_on_cards(workload, card)
    if workload.precision.startswith("bf16") and not card.has_bf16:
        notes.append(f"{card.name} has no bf16: planned as fp16")
    if workload.samples is None and workload.steps is None:
        notes.append("no samples and no steps are given: hours and cost are unknown")
    return tuple(notes)


def _notes_on_cards(workload: Workload, card: Card) -> list[str]:
    notes = []
    # A search tries other cards than the workload names.
    if card_of(workload.gpu) is card and assumed_card(workload.gpu):
        notes.append(f"{workload.gpu} read as {card.name} ({card.memory_gib:g} GiB)")
    if workload.gpus > workload.gpus_per_node and workload.interconnect.node_gb_per_s is None:
        notes.append(
            f"interconnect.node_gb_per_s is not given: {default_node_gb_per_s(card):g} GB/s "
            "between nodes"
        )
    return notes


def check_together(architecture: Architecture, workload: Workload) -> None:
    """Refuses what a model cannot do: images or towers it lacks, samples longer than it can read.

    Raises:
        PlannerError: says which figure to change.
    """
    longest, positions = max(workload.seq_len.values), architecture.max_positions
    if architecture.language_model.family in LEARNED_POSITIONS and longest > positions:
        raise PlannerError(
            f"seq_len ({longest}) is above the {positions} positions that {architecture.name} has "
            "learned: cut the samples there"
        )
    if architecture.towers:
        _check_images(architecture, workload)
    elif workload.images_per_sample or workload.image_tokens:
        raise PlannerError(f"{architecture.name} has no vision tower: leave the images out")
    elif workload.towers != "frozen":
        raise PlannerError(f"{architecture.name} has no vision tower: leave towers out")
    if workload.method.kind == "projector" and not architecture.projector:
        raise PlannerError(f"{architecture.name} has no projector: method projector trains nothing")


def _check_images(architecture: Architecture, workload: Workload) -> None:
    """Images must fit into the sample, and their tokens be known."""
    images = workload.images_per_sample
    tokens = workload.image_tokens or architecture.image_tokens
    if not tokens and images != 0:
        raise PlannerError(
            f"image_tokens is needed: {architecture.name} does not say what an image takes"
        )
    needed = tokens * (1 if images is None else images)
    longest = max(workload.seq_len.values)
    if needed > longest:
        raise PlannerError(
            f"seq_len ({longest}) is shorter than the {needed:g} tokens of its images: seq_len "
            f"counts them too"
        )


def as_record(workload: Workload, prediction: Prediction) -> dict[str, Any]:
    """The prediction as one JSON object; what is unknown is null."""
    memory, step, hours, cost = (
        prediction.memory,
        prediction.step,
        prediction.hours,
        prediction.cost,
    )
    return {
        **({"id": workload.id} if workload.id is not None else {}),
        "fits": prediction.fits,
        "peak_gib_p50": _gib(memory.peak_p50_bytes),
        "peak_gib_p95": _gib(memory.peak_p95_bytes),
        "memory_metric": workload.memory_metric,
        "components_gib": {name: _gib(value) for name, value in memory.components.items()},
        "phases_gib": {name: _gib(value) for name, value in memory.phases.items()},
        "allocated_gib": _gib(memory.allocated_bytes),
        "process_gib_p50": _gib(memory.process_p50_bytes),
        "process_gib_p95": _gib(memory.process_p95_bytes),
        "needed_gib_p95": _gib(memory.needed_p95_bytes),
        "host_gib_per_node": _gib(memory.host_bytes),
        "checkpoint_gib": _gib(memory.checkpoint_bytes),
        "step_time_s": _figure(step.p50_s),
        "step_time_s_p95": _figure(step.p95_s),
        "tokens_per_s": _figure(step.tokens_per_s),
        "steps": _figure(hours.steps) if hours else None,
        "hours": _figure(hours.hours_p50) if hours else None,
        "hours_p95": _figure(hours.hours_p95) if hours else None,
        "goodput": _figure(hours.goodput) if hours else None,
        "gpu_hours": _figure(cost.gpu_hours_p50) if cost else None,
        "gpu_hours_p95": _figure(cost.gpu_hours_p95) if cost else None,
        "cost": _figure(cost.cost_p50) if cost else None,
        "cost_p95": _figure(cost.cost_p95) if cost else None,
        "currency": cost.currency if cost else None,
        "energy_kwh": _figure(cost.energy_kwh) if cost else None,
        "co2_kg": _figure(cost.co2_kg) if cost else None,
        "binding": prediction.binding,
        "notes": list(prediction.notes),
    }


def _gib(size: Any) -> float:  # noqa: ANN401 - a number or a numpy scalar
    return round(float(size) / GIB, 3)


def _figure(value: Any) -> float | None:  # noqa: ANN401
    """Five digits; what is unknown or beyond all measure is null, which JSON can say."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{float(value):.5g}")
