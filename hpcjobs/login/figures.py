"""The figures that are known before a run: parameters and the memory of model states."""

from dataclasses import dataclass

from hpcjobs.run.experiment import Experiment
from planner.parameters import (
    MgmParameters,
    clip_vision_parameters,
    convnext_parameters,
    gemma_parameters,
    lora_parameters,
    mining_parameters,
    projector_parameters,
)
from planner.states import ModelStates, model_states


@dataclass(frozen=True, slots=True)
class Figures:
    """Parameters in all and trained, and the model states of one card."""

    total: int
    trainable: int
    states: ModelStates


def figures_of(experiment: Experiment) -> Figures:
    """Computes a run's figures from its configuration alone."""
    counts = count_parameters(experiment)
    trainable = _trainable(experiment, counts)
    total = counts.total + (_lora(experiment) if experiment.method.kind == "lora" else 0)
    states = model_states(
        total=total,
        trainable=trainable,
        zero_stage=experiment.parallel.zero_stage,
        world_size=experiment.parallel.world_size,
        bytes_per_weight=4 if experiment.train.precision == "fp32" else 2,
    )
    return Figures(total, trainable, states)


def count_parameters(experiment: Experiment) -> MgmParameters:
    """Counts the model's parameters by component."""
    text, vision, aux = experiment.model.text, experiment.model.vision, experiment.model.aux
    return MgmParameters(
        language_model=gemma_parameters(
            text.hidden,
            text.layers,
            text.heads,
            text.kv_heads,
            text.head_dim,
            text.intermediate,
            text.vocab,
        ),
        vision_tower=clip_vision_parameters(
            vision.hidden, vision.layers, vision.intermediate, vision.picture_px, vision.patch_px
        ),
        vision_tower_aux=convnext_parameters(aux.widths, aux.depths),
        projector=projector_parameters(vision.hidden, text.hidden),
        mining=mining_parameters(vision.hidden, aux.channels),
    )


def _trainable(experiment: Experiment, counts: MgmParameters) -> int:
    method = experiment.method
    projector = counts.trained_projector if method.train_projector else 0
    if method.kind == "lora":
        return _lora(experiment) + projector
    return projector + (counts.language_model if method.kind == "full" else 0)


def _lora(experiment: Experiment) -> int:
    """LoRA on all seven projections; the pattern of an own ``method.targets`` is not counted."""
    text = experiment.model.text
    return lora_parameters(
        experiment.method.rank,
        text.hidden,
        text.layers,
        text.heads,
        text.kv_heads,
        text.head_dim,
        text.intermediate,
    )
