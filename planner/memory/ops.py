"""What torch's operators allocate and keep for the backward pass.

Every function follows the operator's formula in torch's tools/autograd/derivatives.yaml and the
C++ function that it names. Names are torch's.
"""

from dataclasses import dataclass

from planner.memory.tape import Storage, Tape, Value

BLOCK = 512
"""torch's allocator hands out multiples of this."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter beside a linear layer."""

    rank: int
    width: int
    """Bytes of a number."""
    dropout: bool = False


@dataclass(frozen=True, slots=True)
class Matrix:
    """A linear layer as the tape runs it."""

    inputs: int
    outputs: int
    copies: int = 1
    """Experts alike: a gradient has all of them."""
    gradient_width: int = 0
    """Bytes of a number of the weight's gradient; 0 where the weight is frozen."""
    adapter: Adapter | None = None
    kept_copy: int = 0
    """Bytes of a copy of the weight in the compute type that is kept for the backward."""
    passing_copy: int = 0
    """Bytes of such a copy (a dequantised weight) that lives during the product alone."""
    keeps_input: bool = False
    """Whether the input is kept though the weight is frozen: bitsandbytes' ``MatMul4Bit`` did so
    before 0.44 (its change #1270)."""


def cast(tape: Tape, x: Value, width: int) -> Value:
    """``x.to(dtype)``: nothing happens where the type is that already."""
    if x.width == width:
        return x
    size = x.elements * x.width
    return tape.result(x.elements, width, (x,), lambda _: (tape.new(size),))


def scaled(tape: Tape, x: Value) -> Value:
    """A product with, or a sum that copies by, a plain number: saves nothing."""
    size = x.elements * x.width
    return tape.result(x.elements, x.width, (x,), lambda _: (tape.new(size),))


def add(tape: Tape, a: Value, b: Value) -> Value:
    """A sum: the gradient goes to both, cast where one of them is narrower."""
    width = max(a.width, b.width)
    sizes = tuple(None if v.width == width else v.elements * v.width for v in (a, b))

    def run(grad: Storage) -> tuple[Storage, ...]:
        return tuple(grad if size is None else tape.new(size) for size in sizes)

    return tape.result(a.elements, width, (a, b), run)


def mul(tape: Tape, a: Value, b: Value) -> Value:
    """A product of two tensors: each is kept for the other's gradient."""
    size = a.elements * a.width
    kept = (b.storage if a.node else None, a.storage if b.node else None)

    def run(grad: Storage) -> tuple[Storage | None, ...]:
        del grad
        return tuple(None if other is None else tape.new(size) for other in kept)

    return tape.result(a.elements, a.width, (a, b), run)


def elementwise(tape: Tape, x: Value, *, keep: bool = True, temporaries: int = 0) -> Value:
    """An activation with a backward of its own: keeps its input (or result) once."""
    size = x.elements * x.width
    kept = x.storage if keep else None

    def run(grad: Storage, _: Storage | None = kept) -> tuple[Storage]:
        del grad
        tape.flash(size * (1 + temporaries))
        return (tape.new(size),)

    return tape.result(x.elements, x.width, (x,), run)


def keeps_result(tape: Tape, x: Value) -> Value:
    """tanh, sigmoid, softmax: the backward needs the result."""
    size = x.elements * x.width
    held: list[Storage] = []

    def run(grad: Storage) -> tuple[Storage]:
        del grad
        return (tape.new(size),) if held else ()  # type: ignore[return-value]

    out = tape.result(x.elements, x.width, (x,), run)
    if out.node is not None:
        held.append(out.storage)
    return out


def linear(tape: Tape, x: Value, matrix: Matrix) -> Value:
    """``F.linear``: the input is kept only where the weight is trained."""
    rows = x.elements // matrix.inputs
    size = x.elements * x.width
    weight = matrix.inputs * matrix.outputs
    trained = matrix.gradient_width > 0 and tape.recording
    kept = x.storage if trained or (matrix.keeps_input and x.node is not None) else None
    copy = tape.new(matrix.kept_copy) if matrix.kept_copy else None
    wants_input = x.node is not None

    def run(
        grad: Storage, _kept: Storage | None = kept, _copy: Storage | None = copy
    ) -> tuple[Storage | None]:
        del grad
        passing = tape.new(matrix.passing_copy) if matrix.passing_copy else None
        out = tape.new(size) if wants_input else None
        del passing
        if trained:
            tape.gradient(weight * matrix.copies, matrix.gradient_width)
        return (out,)

    passing = tape.new(matrix.passing_copy) if matrix.passing_copy else None
    y = Value(tape.new(rows * matrix.outputs * x.width), rows * matrix.outputs, x.width, None)
    del passing
    if tape.recording and (wants_input or trained):
        edge = x.node if x.node is not None else tape.node((), lambda _: ())
        y.node = tape.node((edge,), run)
    return y


def adapted(tape: Tape, x: Value, matrix: Matrix) -> Value:
    """A linear layer, with LoRA beside it where it has an adapter (peft/tuners/lora/layer.py).

    ``result + lora_B(lora_A(dropout(x))) * scaling``: the adapters keep their inputs, in their
    own type.
    """
    adapter = matrix.adapter
    if adapter is None:
        return linear(tape, x, matrix)
    result = linear(tape, x, matrix)
    x = cast(tape, x, adapter.width)
    low = linear(
        tape,
        dropout(tape, x) if adapter.dropout else x,
        Matrix(matrix.inputs, adapter.rank, gradient_width=adapter.width),
    )
    high = linear(tape, low, Matrix(adapter.rank, matrix.outputs, gradient_width=adapter.width))
    del low
    high = scaled(tape, high)
    wide = add(tape, result, high)
    del high
    width = result.width
    del result
    return cast(tape, wide, width)


def dropout(tape: Tape, x: Value) -> Value:
    """``native_dropout``, which CUDA runs: keeps a mask of one byte an element."""
    size = x.elements * x.width
    mask = tape.new(x.elements)

    def run(grad: Storage, _: Storage | None = mask) -> tuple[Storage]:
        del grad
        return (tape.new(size),)

    return tape.result(x.elements, x.width, (x,), run)


def square(tape: Tape, x: Value) -> Value:
    """``x.pow(2)``: keeps x; its backward makes two copies on the way."""
    return elementwise(tape, x, temporaries=2)


def mean(tape: Tape, x: Value) -> Value:
    """The mean over the last dimension, taken as nothing; its backward spreads to the full size."""
    size = x.elements * x.width
    return tape.result(0, x.width, (x,), lambda _: (tape.new(size),))


def rms_norm(
    tape: Tape, x: Value, *, trained: bool, wide_scale: bool = False, channels: int = 0
) -> Value:
    """An RMS norm as transformers writes it: in fp32, whatever the type of x.

    Llama's kind casts back before the scale, Gemma's after it (``wide_scale``). Neither is a
    fused operator, so the fp32 copy of the input stays for the backward.
    """
    del channels
    width = x.width
    wide = cast(tape, x, 4)
    spread = mean(tape, square(tape, wide))
    wide = _normalised(tape, wide, spread)
    del spread
    if wide_scale:
        return cast(tape, weighted(tape, wide, trained=trained), width)
    return weighted(tape, cast(tape, wide, width), trained=trained)


def _normalised(tape: Tape, x: Value, spread: Value) -> Value:
    """``x * rsqrt(spread)``: keeps x for the gradient of the factor."""
    size = x.elements * x.width
    kept = x.storage if x.node is not None else None

    def run(grad: Storage, _: Storage | None = kept) -> tuple[Storage, Storage]:
        del grad
        out = tape.new(size)
        tape.flash(size)
        return out, tape.new(0)

    return tape.result(x.elements, x.width, (x, spread), run)


def weighted(tape: Tape, x: Value, *, trained: bool) -> Value:
    """A product with a vector of weights: keeps x where the weights are trained."""
    size = x.elements * x.width
    kept = x.storage if trained else None

    def run(grad: Storage, _: Storage | None = kept) -> tuple[Storage]:
        del grad
        out = tape.new(size)
        if trained:
            tape.flash(size)
        return (out,)

    return tape.result(x.elements, x.width, (x,), run)


def layer_norm(tape: Tape, x: Value) -> Value:
    """``F.layer_norm``: one operator; keeps its input."""
    return elementwise(tape, x)
