"""Attention on the tape: rotary positions, flash attention and plain products."""

from planner.memory.ops import cast, keeps_result, scaled
from planner.memory.tape import Size, Storage, Tape, Value


def rotary(tape: Tape, x: Value, share: float = 1.0) -> Value:
    """``x * cos + rotate_half(x) * sin``: keeps only the tables, which all layers share.

    ``rotate_half`` cuts x in two halves: the gradient of either is a full tensor of zeros with the
    half filled in.
    """
    size = _part(x.elements, share) * x.width
    whole = x.elements * x.width

    def run(grad: Storage) -> tuple[Storage]:
        del grad
        turned = tape.new(size)
        tape.flash(size // 2 + size)
        first = tape.new(size)
        second = tape.new(size)
        del second, turned
        tape.flash(size)
        del first
        return (tape.new(whole),)

    straight = tape.new(size)
    turned = tape.new(size)
    tape.flash(size // 2)
    product = tape.new(size)
    del turned
    out = tape.result(x.elements, x.width, (x,), run)
    del straight, product
    return out


def _part(elements: Size, share: float) -> Size:
    return elements if share == 1.0 else int(share * 64) * (elements // 64)


def attention(tape: Tape, q: Value, k: Value, v: Value, statistics: Size) -> Value:
    """Flash attention, from torch or from the package of that name.

    Keeps query, key, value, output and the fp32 log-sum-exp of every head and token.
    """
    sizes = tuple(value.elements * value.width for value in (q, k, v))
    inputs = (q.storage, k.storage, v.storage)
    held: list[Storage | tuple[Storage, ...]] = []

    def run(grad: Storage) -> tuple[Storage, ...]:
        del grad
        return tuple(tape.new(size) for size in sizes) if held else ()

    out = tape.result(q.elements, q.width, (q, k, v), run)
    log_sums = tape.new(4 * statistics)
    if out.node is not None:
        held += [out.storage, log_sums, inputs]
    return out


def eager_attention(
    tape: Tape,
    q: Value,
    k: Value,
    v: Value,
    scores: Size,
    *,
    fused_upcast: bool,
    softcap: bool = False,
    upcast: bool = True,
) -> Value:
    """Attention by plain products: scores, scaled, masked, softmax in fp32, cast, times values.

    Keeps the fp32 softmax and its copy in the compute type: 6 bytes a score in bf16.
    ``fused_upcast`` is CUDA's softmax, which reads two bytes and writes four; on the CPU the
    scores are cast before.
    """
    k, v = repeated(tape, k, q.elements), repeated(tape, v, q.elements)
    weights = product(tape, q, k, scores)
    weights = scaled(tape, weights)
    if softcap:
        weights = scaled(tape, keeps_result(tape, scaled(tape, weights)))
    weights = _masked(tape, weights)
    width = weights.width
    if not upcast:
        weights = keeps_result(tape, weights)
    elif fused_upcast:
        weights = _softmax(tape, weights)
    else:
        weights = keeps_result(tape, cast(tape, weights, 4))
    weights = cast(tape, weights, width)
    return product(tape, weights, v, q.elements)


def _softmax(tape: Tape, x: Value) -> Value:
    """CUDA's softmax with an fp32 result: keeps it, and gives the gradient in the input's type."""
    size = x.elements * x.width
    held: list[Storage] = []

    def run(grad: Storage) -> tuple[Storage | None]:
        del grad
        return (tape.new(size) if held else None,)

    out = tape.result(x.elements, 4, (x,), run)
    if out.node is not None:
        held.append(out.storage)
    return out


def repeated(tape: Tape, x: Value, elements: Size) -> Value:
    """Keys or values repeated for every query head (``repeat_kv``)."""
    if x.elements == elements:
        return x
    size = x.elements * x.width
    return tape.result(elements, x.width, (x,), lambda _: (tape.new(size),))


def product(tape: Tape, a: Value, b: Value, elements: Size) -> Value:
    """A batched matrix product of two activations: both are kept."""
    sizes = (a.elements * a.width, b.elements * b.width)
    kept = (a.storage, b.storage)

    def run(grad: Storage, _: tuple[Storage, Storage] = kept) -> tuple[Storage, ...]:
        del grad
        return tuple(tape.new(size) for size in sizes)

    return tape.result(elements, a.width, (a, b), run)


def _masked(tape: Tape, x: Value) -> Value:
    """Scores plus the mask: a new tensor, and a gradient that passes as it is."""
    return tape.result(x.elements, x.width, (x,), lambda grad: (grad,))
