"""The tape frees a storage when torch would, and remembers how high the live bytes went."""

from planner.memory.ops import Matrix, add, cast, linear, mul
from planner.memory.tape import PAIR, TOKEN, Tape, fields


def test_a_size_keeps_its_three_fields_apart() -> None:
    assert fields(7 + 11 * TOKEN + 13 * PAIR) == (7, 11, 13)


def test_a_temporary_is_gone_once_nothing_refers_to_it() -> None:
    tape = Tape()
    x = tape.value(10 * TOKEN, 2, grad=True)
    y = cast(tape, cast(tape, x, 4), 2)
    assert fields(tape.live) == (0, 10 * 2 + 10 * 2, 0)
    assert max(tape.marks) == (20 + 40 + 20) * TOKEN
    assert y.node is not None


def test_a_frozen_linear_keeps_no_input_and_a_trained_one_does() -> None:
    for width, kept in ((0, 0), (2, 10 * 2)):
        tape = Tape()
        x = tape.value(10 * TOKEN, 2, grad=True)
        y = linear(tape, x, Matrix(10, 30, gradient_width=width))
        del x
        assert fields(tape.live) == (0, 30 * 2 + kept, 0), width
        del y


def test_a_product_keeps_both_factors_until_its_backward() -> None:
    tape = Tape()
    x = tape.value(4 * TOKEN, 2, grad=True)
    y = mul(tape, x, cast(tape, x, 2))
    del x
    before = tape.live
    node, grad = y.node, tape.new(8 * TOKEN)
    del y
    assert node is not None
    last = tape.backward(node, grad)
    del grad, node
    assert before == 16 * TOKEN
    assert last is not None
    assert tape.live == last.size == 8 * TOKEN


def test_nothing_is_recorded_without_gradients() -> None:
    tape = Tape()
    x = tape.value(4 * TOKEN, 2, grad=True)
    with tape.no_grad():
        y = linear(tape, x, Matrix(4, 4, gradient_width=2))
    assert y.node is None


def test_gradients_of_weights_stay_or_go_as_the_tape_is_told() -> None:
    for keep in (True, False):
        tape = Tape(keep_gradients=keep)
        x = tape.value(4 * TOKEN, 2, grad=True)
        y = linear(tape, x, Matrix(4, 8, gradient_width=2))
        node = y.node
        del x, y
        assert node is not None
        last = tape.backward(node, tape.new(16 * TOKEN))
        del last
        assert fields(tape.live)[0] == (4 * 8 * 2 if keep else 0)
        assert [elements for elements, _ in tape.hooks] == [32]


def test_two_gradients_are_summed_in_place_unless_told_otherwise() -> None:
    heights = []
    for in_place in (True, False):
        tape = Tape(in_place=in_place)
        x = tape.value(4 * TOKEN, 2, grad=True)
        y = add(tape, linear(tape, x, Matrix(4, 1)), linear(tape, x, Matrix(4, 1)))
        node = y.node
        del x, y
        tape.marks.clear()
        assert node is not None
        tape.backward(node, tape.new(2 * TOKEN))
        heights.append(max(tape.marks))
    assert heights[0] < heights[1]
