"""Which runs a workload has something in common with."""

import re

from planner.architecture import Architecture
from planner.calibration.observation import Key
from planner.workload import Workload

_MINOR = re.compile(r"\d+\.\d+")
_STACK = ("torch", "deepspeed")


def key_of(architecture: Architecture, workload: Workload, card: str, stack: str) -> Key:
    """The key of a workload on a card, with the versions that run there."""
    method = workload.method
    return Key(
        method=method.kind,
        quant=f"{method.bits}bit" if method.kind == "qlora" else "none",
        attention=workload.attention,
        card=card,
        stack=stack,
        model=f"{architecture.family}-{architecture.parameters} {workload.sharding}",
    )


def stack_of(packages: dict[str, str | None]) -> str:
    """The versions that matter, without what changes nothing in a patch release.

    >>> stack_of({"torch": "2.13.0+cu128", "deepspeed": "0.19.8", "hydra-core": "1.3.2"})
    'torch 2.13 deepspeed 0.19'
    """
    known = {name: _MINOR.match(packages.get(name) or "") for name in _STACK}
    return " ".join(f"{name} {found.group()}" for name, found in known.items() if found)
