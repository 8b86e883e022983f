"""A fingerprint of what decides the resources of an experiment.

A plan carries it, and a submission compares it with its own: an approval holds for one question.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_LEFT_OUT = (
    "name",
    "planner",
    "budget",
    "container",
    "health",
    "model.path",
    "model.tokenizer",
    "parallel.grad_accum",
    "data.check",
    "data.bad_samples_max",
    "train.log_every_steps",
    "train.seed",
    "cluster.kind",
    "cluster.time",
    "cluster.mem",
    "cluster.cpus_per_node",
    "cluster.signal_lead_s",
    "cluster.requeue",
    "cluster.setup",
    "cluster.env",
    "cluster.env_file",
    "cluster.python",
)
"""Names, places and limits: they change neither memory nor GPU-hours nor who pays. Accumulation
follows from the global batch."""


def config_hash(experiment: Mapping[str, Any]) -> str:
    """SHA-256 over the parts of an experiment that decide what it takes.

    Args:
        experiment: the validated experiment as JSON values.

    >>> one = config_hash({"name": "a", "train": {"global_batch": 8, "seed": 1}})
    >>> one == config_hash({"train": {"seed": 2, "global_batch": 8}, "name": "b"})
    True
    >>> one == config_hash({"name": "a", "train": {"global_batch": 16, "seed": 1}})
    False
    """
    parts = _deciding(experiment, "")
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _deciding(section: Mapping[str, Any], where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in section.items():
        path = f"{where}.{key}" if where else key
        if path in _LEFT_OUT:
            continue
        found[key] = _deciding(value, path) if isinstance(value, Mapping) else value
    return found
