"""From the last layer's output to the loss: where large vocabularies climb highest."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from planner.memory.ops import Matrix, cast, keeps_result, layer_norm, linear, rms_norm, scaled
from planner.memory.recorded import Recorded, record
from planner.memory.tape import TOKEN, Storage, Tape, Value

CHUNKS = 8
"""Pieces of the sequence that a chunked loss takes one after the other (torchtune's default)."""


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """Final norm, output matrix and loss."""

    hidden: int
    vocab: int
    width: int
    norm: Literal["rms", "layer"]
    wide_scale: bool
    norm_trained: bool
    matrix: Matrix
    loss: Literal["fp32", "fp32_shifted", "no_upcast", "chunked", "fused", "labelled"]
    """``labelled``: MGM's, whose head sees positions with a label alone."""
    softcap: bool
    in_place: bool
    """Whether gradients are summed in place, as with real tensors."""
    many: bool
    """More than one sample: cutting off the last position then copies the logits."""


@lru_cache(maxsize=1024)
def recorded_head(spec: HeadSpec) -> Recorded:
    """Records the head on the tape: heights above what was alive when its input came."""
    return record(
        lambda tape, x: _head(tape, x, spec),
        spec.hidden * TOKEN,
        spec.width,
        checkpointed=False,
        in_place=spec.in_place,
    )


def _head(tape: Tape, x: Value, spec: HeadSpec) -> Value:
    if spec.norm == "layer":
        x = layer_norm(tape, x)
    else:
        x = rms_norm(tape, x, trained=spec.norm_trained, wide_scale=spec.wide_scale)
    if spec.loss == "fused":
        return _fused(tape, x, spec)
    if spec.loss == "labelled":
        x = _picked(tape, x)
        return _loss(tape, cast(tape, linear(tape, x, spec.matrix), 4))
    logits = linear(tape, x, spec.matrix)
    if spec.softcap:
        logits = scaled(tape, keeps_result(tape, scaled(tape, logits)))
    if spec.loss == "fp32_shifted":
        logits = cast(tape, logits, 4)
    if spec.loss in ("no_upcast", "fp32_shifted"):
        return _loss(tape, _without_last(tape, logits, copies=spec.many))
    return _loss(tape, cast(tape, logits, 4))


def _loss(tape: Tape, logits: Value) -> Value:
    """``F.cross_entropy``: log-softmax keeps its result, the loss makes a gradient as large."""
    logs = keeps_result(tape, logits)
    size = logs.elements * logs.width
    kept = logs.storage

    def run(grad: Storage, _: Storage = kept) -> tuple[Storage]:
        del grad
        return (tape.new(size),)

    return tape.result(0, logs.width, (logs,), run)


def _without_last(tape: Tape, logits: Value, *, copies: bool) -> Value:
    """``logits[:, :-1].flatten(0, 1)``: the gradient of a cut is a full tensor of zeros, filled."""
    size = logits.elements * logits.width
    cut = tape.alias(logits, lambda _: (tape.new(size),))
    if not copies:
        return cut
    return tape.result(cut.elements, cut.width, (cut,), lambda grad: (grad,))


def _picked(tape: Tape, x: Value) -> Value:
    """Labelled positions alone go on; here all do, and the caller counts fewer tokens."""
    size = x.elements * x.width
    return tape.result(x.elements, x.width, (x,), lambda _: (tape.new(size),))


def _fused(tape: Tape, x: Value, spec: HeadSpec) -> Value:
    """Liger's kernel computes gradients in the forward, over chunks of about hidden x tokens."""
    size = x.elements * x.width
    gradient = tape.new(size)
    tape.flash(x.elements * (x.width + 4))
    if spec.matrix.gradient_width:
        tape.gradient(spec.vocab * spec.hidden, spec.matrix.gradient_width)

    def run(grad: Storage, ready: Storage = gradient) -> tuple[Storage]:
        del grad
        return (ready,)

    return tape.result(0, x.width, (x,), run)
