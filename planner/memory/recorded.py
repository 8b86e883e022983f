"""What one layer keeps and how high it climbs, recorded on the tape once and kept."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from planner.layout import Quantity
from planner.memory.layers import LayerSpec, layer
from planner.memory.tape import TOKEN, Size, Storage, Tape, Value, fields

Heights = tuple[tuple[int, int, int], ...]
"""Heights of live bytes, of which any may be the highest: fixed, a token, a pair of tokens."""
NOTHING: Heights = ((0, 0, 0),)
Hooks = tuple[tuple[int, tuple[int, int, int]], ...]
"""Elements of gradients so far, and the height then."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One layer, above what was alive when its input came."""

    saved: tuple[int, int, int]
    """What it leaves for the backward, its output included."""
    forward: Heights
    opening: Heights
    """Of the backward, until the first gradient of a parameter is ready."""
    backward: Heights
    """Of all the backward, gradients of parameters gone as soon as they are there."""
    after: Heights
    """The part of it since the first such gradient."""
    hooks: Hooks
    """The moments when such a gradient is there and its operator done."""
    kept: Heights = NOTHING
    """Of all the backward, with gradients that stay."""


def bytes_of(size: tuple[int, int, int], tokens: Quantity, pairs: Quantity) -> Quantity:
    """Evaluates one size.

    >>> bytes_of((1, 2, 3), 10.0, 100.0)
    321.0
    """
    return size[0] + size[1] * tokens + size[2] * pairs


def highest(heights: Heights, tokens: Quantity, pairs: Quantity) -> Quantity:
    """The highest of some heights."""
    values = [size[0] + size[1] * tokens + size[2] * pairs for size in heights]
    if isinstance(tokens, float) and isinstance(pairs, float):
        return max(values)
    value: Quantity = values[0]
    for other in values[1:]:
        value = np.maximum(value, other)
    return value


def pruned(marks: Iterable[Size], base: Size) -> Heights:
    """Heights above a base without those that another one exceeds whatever the batch."""
    sizes = sorted({fields(mark - base) for mark in marks if _above(mark, base)}, reverse=True)
    kept: list[tuple[int, int, int]] = []
    for size in sizes:
        # In falling order the first field of those before is no smaller.
        _, token, pair = size
        if not any(other[1] >= token and other[2] >= pair for other in kept):
            kept.append(size)
    return tuple(kept) or NOTHING


def _above(mark: Size, base: Size) -> bool:
    """Whether no field is smaller: a field that is borrows from the next one."""
    fixed, token, pair = fields(mark)
    least_fixed, least_token, least_pair = fields(base)
    return fixed >= least_fixed and token >= least_token and pair >= least_pair


Program = Callable[[Tape, Value], Value]


@lru_cache(maxsize=4096)
def recorded_layer(spec: LayerSpec, checkpointed: bool, with_gradient: bool = True) -> Recorded:
    """Records one layer.

    Args:
        spec: the layer.
        checkpointed: only its input is kept, and its forward runs again in the backward.
        with_gradient: whether a gradient passes through to its input.
    """
    return record(
        lambda tape, x: layer(tape, x, spec),
        spec.hidden * TOKEN,
        spec.width,
        checkpointed=checkpointed,
        with_gradient=with_gradient,
        in_place=spec.cuda,
    )


def record(
    program: Program,
    elements: Size,
    width: int,
    *,
    checkpointed: bool,
    with_gradient: bool = True,
    in_place: bool = True,
) -> Recorded:
    """Runs a program forward and backward on a tape."""
    tape = Tape(keep_gradients=False, in_place=in_place)
    inputs = [tape.value(elements, width, grad=with_gradient)]
    base = tape.live
    out, saved, forward, waiting = _forward(program, tape, inputs, checkpointed=checkpointed)
    node = out.node
    del out
    if node is not None:
        last = tape.backward(node, waiting.pop())
        del last
    if not tape.hooks:
        tape.before_hooks, tape.marks = tape.marks, set()
    hooks = ((elements, live) for elements, live in tape.hooks if _above(live, base))
    return Recorded(
        saved=fields(saved),
        forward=forward,
        opening=pruned(tape.before_hooks, base),
        backward=pruned(tape.before_hooks | tape.marks, base),
        after=pruned(tape.marks, base),
        hooks=tuple((elements, fields(live - base)) for elements, live in hooks),
        kept=pruned(tape.stays, base),
    )


def _forward(
    program: Program, tape: Tape, inputs: list[Value], *, checkpointed: bool
) -> tuple[Value, Size, Heights, list[Storage]]:
    """Runs the forward; with checkpointing once without a graph, and once more to differentiate.

    Lists hand values over: who takes them out is the only one that holds them.

    Returns:
        The output, what is kept for the backward, the forward's heights, and the gradient that
        comes from above.
    """
    base, x = tape.live, inputs.pop()
    if not checkpointed:
        out = program(tape, x)
        del x
        saved = tape.live - base if _above(tape.live, base) else 0
        forward = pruned(tape.marks, base)
        tape.clear()
        return out, saved, forward, [tape.new(out.elements * out.width)]
    with tape.no_grad():
        out = program(tape, x)
    saved = tape.live - base
    size = out.elements * out.width
    del out
    forward = pruned(tape.marks, base)
    tape.clear()
    waiting = [tape.new(size)]
    return program(tape, x), saved, forward, waiting
