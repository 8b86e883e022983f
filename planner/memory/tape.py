"""A tape of operators that keeps count of bytes: what torch's autograd holds, without tensors.

A layer is written once in these operators, in the order and with the variables of its source
(layers.py). Python frees a storage here when torch would free it there, because both count
references. So the tape finds which tensors are alive at any moment of forward and backward; the
sizes stay symbols, and one run of the tape serves every batch and length.

A size is one integer of three fields: bytes that do not depend on the batch, bytes a token, and
bytes a pair of tokens (attention scores). Fields never borrow from each other, since no count of
live bytes is negative.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from heapq import heappop, heappush
from typing import Optional

Size = int

_BITS = 64
_ONLY_ARRIVED = 3
"""References to a gradient that only waits: the dictionary, a local name, the question itself."""
_MASK = (1 << _BITS) - 1
TOKEN: Size = 1 << _BITS
"""One byte a token."""
PAIR: Size = 1 << 2 * _BITS
"""One byte a pair of tokens of one sample."""


def fields(size: Size) -> tuple[int, int, int]:
    """Bytes in all, a token, and a pair of tokens.

    >>> fields(3 + 5 * TOKEN + 7 * PAIR)
    (3, 5, 7)
    """
    return size & _MASK, size >> _BITS & _MASK, size >> 2 * _BITS


Backward = Callable[["Storage"], tuple[Optional["Storage"], ...]]
"""From the gradient of a node's output to the gradients of its inputs."""


class Node:
    """One operator that a gradient passes through."""

    __slots__ = ("edges", "order", "run")

    def __init__(self, edges: tuple[Optional["Node"], ...], order: int, run: Backward) -> None:
        self.edges = edges
        self.order = order
        self.run: Backward | None = run


class Storage:
    """Bytes that live until nothing refers to them."""

    __slots__ = ("size", "tape")

    def __init__(self, tape: "Tape", size: Size) -> None:
        self.tape = tape
        self.size = size
        tape.live += size
        tape.marks.add(tape.live)
        tape.stays.add(tape.live + tape.gone)

    def __del__(self) -> None:
        """Gives the bytes back."""
        self.tape.live -= self.size


class Value:
    """A tensor: its storage, its elements and its place in the graph; views share a storage."""

    __slots__ = ("elements", "node", "storage", "width")

    def __init__(self, storage: Storage, elements: Size, width: int, node: Node | None) -> None:
        self.storage = storage
        self.elements = elements
        self.width = width
        self.node = node

    def view(self) -> "Value":
        """The same bytes under another shape; gradients pass as views too."""
        return Value(self.storage, self.elements, self.width, self.node)


class Tape:
    """Counts live bytes and remembers every height that they reached."""

    def __init__(self, keep_gradients: bool = True, in_place: bool = True) -> None:
        self.in_place = in_place
        self.live: Size = 0
        self.marks: set[Size] = set()
        self.gone: Size = 0
        """Gradients of parameters that were taken away."""
        self.stays: set[Size] = set()
        """The heights, had those gradients stayed."""
        self.hooks: list[tuple[int, Size]] = []
        """Elements of gradients so far, and the height when the last of them was ready."""
        self.before_hooks: set[Size] = set()
        """Heights before the first of those moments."""
        self.kept: list[Storage] = []
        self.keep_gradients = keep_gradients
        self.recording = True
        self._fresh: list[tuple[int, Storage]] = []
        self._elements = 0
        self._order = 0

    def new(self, size: Size) -> Storage:
        """A storage that the caller keeps alive."""
        return Storage(self, size)

    def flash(self, *sizes: Size) -> None:
        """Temporaries inside one operator, all alive at one moment."""
        top = self.live + sum(sizes)
        self.marks.add(top)
        self.stays.add(top + self.gone)

    def clear(self) -> None:
        """Forgets the heights so far."""
        self.marks.clear()
        self.stays.clear()

    def value(self, elements: Size, width: int, *, grad: bool = False) -> Value:
        """A tensor that comes from outside."""
        node = self.node((), lambda _: ()) if grad else None
        return Value(self.new(elements * width), elements, width, node)

    def node(self, edges: tuple[Node | None, ...], run: Backward) -> Node:
        """Appends an operator to the graph."""
        self._order += 1
        return Node(edges, self._order, run)

    def result(
        self, elements: Size, width: int, inputs: Iterable[Value], run: Backward | None
    ) -> Value:
        """The output of an operator; without inputs that need gradients nothing is recorded."""
        edges = tuple(value.node for value in inputs)
        storage = self.new(elements * width)
        if run is None or not self.recording or not any(edges):
            return Value(storage, elements, width, None)
        return Value(storage, elements, width, self.node(edges, run))

    def alias(self, value: Value, run: Backward | None = None) -> Value:
        """A view that is an operator of its own."""
        if value.node is None or not self.recording:
            return Value(value.storage, value.elements, value.width, None)
        node = self.node((value.node,), run or (lambda grad: (grad,)))
        return Value(value.storage, value.elements, value.width, node)

    def gradient(self, elements: int, width: int) -> None:
        """A gradient of a parameter: kept beside the parameter, or taken away by a hook."""
        self._fresh.append((elements, self.new(elements * width)))

    def _deliver(self) -> None:
        """What happens to gradients of parameters once their operator is done."""
        if self._fresh:
            if not self.hooks:
                self.before_hooks, self.marks = self.marks, set()
            self._elements += sum(elements for elements, _ in self._fresh)
            self.hooks.append((self._elements, self.live))
            if self.keep_gradients:
                self.kept += [storage for _, storage in self._fresh]
            else:
                self.gone += sum(storage.size for _, storage in self._fresh)
            self._fresh = []

    @contextmanager
    def no_grad(self) -> Iterator[None]:
        """Nothing is recorded inside."""
        before, self.recording = self.recording, False
        try:
            yield
        finally:
            self.recording = before

    def backward(self, root: Node, grad: Storage) -> Storage | None:
        """Runs the graph backwards, the latest operator first, as torch's engine does.

        Returns:
            The gradient that reached the input of the graph (the node without edges).
        """
        waiting = _uses(root)
        ready: list[tuple[int, Node]] = [(-root.order, root)]
        arrived: dict[Node, Storage] = {root: grad}
        del grad
        last: Storage | None = None
        while ready:
            node = heappop(ready)[1]
            given = arrived.pop(node)
            if not node.edges:
                last = given
                continue
            run, node.run = node.run, None
            outcome = list(run(given)) if run is not None else []
            del given, run
            self._deliver()
            for position, edge in enumerate(node.edges):
                found, outcome[position] = outcome[position], None
                if edge is None or found is None:
                    continue
                self._accumulate(arrived, edge, found)
                del found
                waiting[edge] -= 1
                if waiting[edge] == 0:
                    heappush(ready, (-edge.order, edge))
            node.edges = ()
            del node
        return last

    def _accumulate(self, arrived: dict[Node, Storage], edge: Node, found: Storage) -> None:
        """A second gradient is added to the first one, in place where nothing else holds it.

        torch/csrc/autograd/input_buffer.cpp, ``accumulate``.
        """
        first = arrived.get(edge)
        if first is None:
            arrived[edge] = found
        elif not self.in_place or sys.getrefcount(first) > _ONLY_ARRIVED:
            arrived[edge] = self.new(max(first.size, found.size))


def _uses(root: Node) -> dict[Node, int]:
    """How many gradients every node waits for."""
    uses: dict[Node, int] = {root: 0}
    stack = [root]
    while stack:
        for edge in stack.pop().edges:
            if edge is None:
                continue
            if edge not in uses:
                uses[edge] = 0
                stack.append(edge)
            uses[edge] += 1
    return uses
