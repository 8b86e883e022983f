"""What one run has measured, beside what the planner had said of it."""

import msgspec


class Key(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What runs must have in common for one to tell about the other.

    A calibration falls back from ``model`` over the rest of the key to the method alone, and
    from there to all runs.
    """

    method: str
    """``full``, ``lora``, ``qlora``, ``projector``."""
    quant: str = "none"
    """``none``, ``4bit``, ``8bit``."""
    attention: str = "flash"
    card: str = ""
    """The card's name in the planner's table."""
    stack: str = ""
    """Versions of what runs on the card: ``torch 2.13 deepspeed 0.19``; empty is any."""
    model: str = ""
    """The model with its sharding: ``gemma-2b zero2``."""


class TimeObservation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One optimizer step at one length: measured seconds, and the planner's parts of it.

    ``planner.calibration.parts.time_parts`` makes the three parts.
    """

    run: str
    """Observations of one run are left out together when errors are measured."""
    key: Key
    measured_s: float
    """Median step time without the wait for data."""
    floor_s: float
    line_s: float
    fixed_s: float = 0.0


class MemoryObservation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The peak of one run, and the planner's parts of it, in bytes."""

    run: str
    key: Key
    measured_bytes: float
    """The peak; for a run that ran out of memory, what the card had."""
    static_bytes: float
    """Weights, gradients, optimizer states, buffers: there through the whole step."""
    dynamic_bytes: float
    """Activations, logits and other humps."""
    slack_bytes: float = 0.0
    """Fragmentation and cached blocks: what torch reserves beyond its live tensors."""
    context_bytes: float = 0.0
    """CUDA context and NCCL; taken as it is."""
    censored: bool = False
    """True where the run ran out of memory: the peak would have been this much or more."""
