"""From an experiment to the workload that the planner predicts."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcjobs.login.sample_facts import SampleFacts, sample_facts
from hpcjobs.run.cluster_config import ALLOCATOR_VARIABLES
from hpcjobs.run.errors import ConfigError
from hpcjobs.run.experiment import Experiment, Method
from hpcjobs.run.schema import plain
from planner.read_workload import read_workload
from planner.workload import Workload

_PROJECTIONS = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), "self_attn"),
    **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), "mlp"),
}
_LARGE_VOCAB = 32_000
"""Below it a token is fewer characters than ``sample_facts`` takes."""
_SMALLEST_BUCKET = 1 << 16
_LONGEST_SHARE = 1e-4
"""Share of samples that reach the longest length, where only mean and spread are known."""


@dataclass(frozen=True, slots=True)
class Described:
    """A workload, and what had to be assumed for it."""

    workload: Workload
    assumptions: tuple[str, ...]


def workload_of(experiment: Experiment) -> Workload:
    """Describes an experiment to the planner; ``describe`` says what was assumed, too.

    Raises:
        ConfigError: ``method.targets`` matches no projection of the decoder.
        PlannerError: a value that the planner cannot take.
    """
    return describe(experiment).workload


def describe(experiment: Experiment) -> Described:
    """Describes an experiment to the planner, with the assumptions that this takes.

    The facts about our own trainer: adapters have the model's type and ZeRO's bucket is the square
    of the width (hpcjobs/train), towers are frozen, and attention is transformers' default.

    Raises:
        ConfigError: ``method.targets`` matches no projection of the decoder.
        PlannerError: a value that the planner cannot take.
    """
    facts = _facts(experiment)
    lengths, length_note = _lengths(experiment, facts)
    samples, samples_note = _samples(experiment, facts)
    images = _images(experiment, facts)
    share = _logit_share(experiment, images)
    train, parallel, text = experiment.train, experiment.parallel, experiment.model.text
    raw = {
        "model": model_config(experiment),
        "method": method_of(experiment.method, train.precision),
        "image_tokens": experiment.model.picture_tokens,
        "images_per_sample": images,
        "seq_len": lengths,
        "micro_batch": parallel.micro_batch,
        "grad_accum": max(1, experiment.grad_accum),
        "grad_ckpt": train.grad_checkpointing,
        "attention": "sdpa",
        "loss": "fp32",
        "logit_share": share,
        "precision": train.precision,
        "sharding": f"zero{parallel.zero_stage}",
        "offload": parallel.offload,
        "gpus": parallel.world_size,
        "gpus_per_node": parallel.gpus_per_node,
        "expandable_segments": _has_expandable_segments(experiment),
        "reduce_bucket": max(text.hidden**2, _SMALLEST_BUCKET),
        "samples": samples,
        "epochs": train.epochs or 1.0,
        "steps": train.steps,
        "workers": max(1, experiment.data.workers),
    }
    notes = (
        length_note,
        samples_note,
        f"logits for at most {100 * share:.0f} % of a sample: pictures and prompts are left out",
    )
    return Described(read_workload(raw), tuple(note for note in notes if note))


def model_config(experiment: Experiment) -> dict[str, Any]:
    """The model's dimensions in the planner's form of a ``config.json``."""
    model = experiment.model
    text = plain(model.text)
    for name in ("norm_eps", "rope_theta", "init_std"):
        del text[name]
    return {
        "model_type": "mgm",
        "text": text,
        "vision": plain(model.vision),
        "aux": plain(model.aux),
    }


def method_of(method: Method, precision: str) -> dict[str, Any]:
    """The method in the planner's words.

    Raises:
        ConfigError: ``method.targets`` matches no projection of the decoder.
    """
    described: dict[str, Any] = {"kind": method.kind, "train_projector": method.train_projector}
    if method.kind == "lora":
        adapter = "fp32" if precision == "fp32" else "bf16"
        targets = adapted_projections(method.targets)
        described |= {
            "r": method.rank,
            "dropout": method.dropout,
            "adapter_dtype": adapter,
            "targets": targets,
        }
    return described


def adapted_projections(pattern: str) -> list[str]:
    r"""Which projections of the decoder ``method.targets`` matches, judged by its first layer.

    >>> adapted_projections(r"model\.layers\.\d+\.self_attn\.(q|v)_proj")
    ['q_proj', 'v_proj']

    Raises:
        ConfigError: none, which the trainer would refuse too.
    """
    names = [
        name
        for name, part in _PROJECTIONS.items()
        if re.fullmatch(pattern, f"model.layers.0.{part}.{name}")
    ]
    if not names:
        raise ConfigError(
            f"method.targets {pattern!r} matches no projection of the decoder's first layer, such "
            f"as model.layers.0.self_attn.q_proj"
        )
    return names


def _facts(experiment: Experiment) -> SampleFacts | None:
    if not experiment.planner.read_data:
        return None
    return sample_facts(Path(experiment.data.root) / experiment.data.train)


def _lengths(experiment: Experiment, facts: SampleFacts | None) -> tuple[Any, str | None]:
    """The length distribution, and where it is from."""
    given, longest = experiment.planner.lengths, experiment.model.max_length
    if facts is not None and experiment.model.text.vocab >= _LARGE_VOCAB:
        values, weights = facts.lengths(experiment.model.picture_tokens, longest)
        mean = sum(n * share for n, share in zip(values, weights, strict=True))
        note = (
            f"{mean:,.0f} tokens a sample on average, estimated from {len(facts.characters):,} "
            f"samples of {experiment.data.train} at 4 characters a token"
        )
        return {"values": list(values), "weights": weights}, note
    longest = min(longest, given.max or longest)
    if given.values:
        return [min(value, longest) for value in given.values], None
    if given.mean is not None:
        note = (
            f"{given.mean:,.10g} tokens a sample on average (planner.lengths), {longest:,} at most"
        )
        return _spread_lengths(experiment, longest), note
    return longest, f"every sample is planned at model.max_length, {longest:,} tokens"


def _spread_lengths(experiment: Experiment, longest: int) -> dict[str, Any]:
    """A log-normal text after the picture; one of the longest samples is enough to matter.

    Raises:
        ConfigError: the mean or the longest leaves no room for the picture.
    """
    given = experiment.planner.lengths
    picture = experiment.model.picture_tokens if _images(experiment, None) >= 1 else 0
    mean, std = given.mean or 0.0, given.std
    if mean <= picture:
        raise ConfigError(
            f"planner.lengths.mean ({mean:g}) counts pictures too, and one takes {picture} tokens: "
            f"write a mean above {picture}, or planner.images_per_sample=0"
        )
    if longest <= picture:
        key = "planner.lengths.max" if given.max == longest else "model.max_length"
        raise ConfigError(
            f"{key} ({longest}) counts pictures too, and one takes {picture} tokens: write a "
            f"value above {picture}, or planner.images_per_sample=0"
        )
    text = {"mean": mean - picture, "max": longest - picture}
    text |= {} if std is None else {"std": std}
    spread = read_workload({"model": "", "method": "full", "seq_len": text}).seq_len
    weights = [(1 - _LONGEST_SHARE) * weight for weight in spread.weights]
    values = [picture + value for value in spread.values]
    return {"values": [*values, longest], "weights": [*weights, _LONGEST_SHARE]}


def _samples(experiment: Experiment, facts: SampleFacts | None) -> tuple[int | None, str | None]:
    given, name = experiment.planner.samples, experiment.data.train
    if facts is not None:
        note = None if facts.is_exact else f"about {facts.samples:,} samples, by the size of {name}"
        return facts.samples, note
    if given is not None:
        return given, f"{given:,} samples (planner.samples)"
    if experiment.train.steps is not None:
        return None, None
    return None, (
        f"{experiment.data.root}/{name} cannot be read here, so hours and cost are not known: "
        f"write planner.samples=N"
    )


def _images(experiment: Experiment, facts: SampleFacts | None) -> float:
    given = experiment.planner.images_per_sample
    if facts is not None:
        return facts.picture_share
    return 1.0 if given is None else given


def _logit_share(experiment: Experiment, images: float) -> float:
    """The most positions of a long sample that can have a label: those that are no picture.

    The trainer computes logits for labelled positions alone (hpcjobs/train/mgm/loss.py).
    """
    model = experiment.model
    return 1.0 - min(images, 1.0) * model.picture_tokens / model.max_length


def _has_expandable_segments(experiment: Experiment) -> bool:
    words = experiment.cluster.process_env
    return any("expandable_segments:True" in words.get(name, "") for name in ALLOCATOR_VARIABLES)
