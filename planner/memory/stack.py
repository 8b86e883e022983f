"""The language model's layers, recorded and evaluated for one layout."""

from dataclasses import dataclass

import numpy as np

from planner.architecture import Architecture
from planner.layout import Quantity
from planner.memory.dtypes import stream_bytes
from planner.memory.recorded import Recorded, bytes_of, highest, recorded_layer
from planner.memory.reduction import Moment
from planner.memory.specs import Kernels, decoder_specs, reaches_embedding
from planner.workload import Workload


@dataclass(frozen=True, slots=True)
class Stack:
    """Layers in order, and the tokens that go through them."""

    layers: tuple[tuple[int, Recorded], ...]
    first: Recorded
    """The first layer: with adapters alone below it, no gradient passes it."""
    start: Quantity
    """Bytes of the embedded input."""
    tokens: Quantity
    pairs: Quantity

    def of(self, size: tuple[int, int, int]) -> Quantity:
        """Bytes of a size."""
        return bytes_of(size, self.tokens, self.pairs)

    @property
    def last(self) -> Recorded:
        """The last layer."""
        return self.layers[-1][1]

    @property
    def second(self) -> Recorded:
        """The layer below the last one."""
        count, last = self.layers[-1]
        return last if count > 1 or len(self.layers) == 1 else self.layers[-2][1]

    def kept(self, done: int = 0) -> Quantity:
        """What is left for the backward when it is through some layers, counted from the top."""
        total = self.start + self.of(self.first.saved) - self.of(self.layers[0][1].saved)
        for count, recorded in reversed(self.layers):
            left = count - min(count, done)
            done -= count - left
            total = total + left * self.of(recorded.saved)
        return np.maximum(total, 0.0)

    def forward(self) -> Quantity:
        """The top of the last layer's forward."""
        climb = highest(self.last.forward, self.tokens, self.pairs) - self.of(self.last.saved)
        return self.kept() + np.maximum(climb, 0.0)

    def opening(self) -> Quantity:
        """The top of the last layer's backward before its first gradient is ready."""
        return self.kept(1) + highest(self.last.opening, self.tokens, self.pairs)

    def backward(self, fresh: Quantity) -> Quantity:
        """The last layer from its first gradient on, or all of the one below it.

        Args:
            fresh: above 0 where gradients stay as they are made.
        """
        last = highest(self.last.after, self.tokens, self.pairs)
        second = highest(self.second.backward, self.tokens, self.pairs)
        stays = highest(self.last.kept, self.tokens, self.pairs)
        passing = np.maximum(self.kept(1) + last, self.kept(2) + second)
        return np.where(fresh > 0, self.kept(1) + stays, passing)

    def backward_end(self, fresh: Quantity) -> Quantity:
        """The first layer."""
        passing = highest(self.first.backward, self.tokens, self.pairs)
        stays = highest(self.first.kept, self.tokens, self.pairs)
        return self.start + np.where(fresh > 0, stays, passing)

    def at(self, moment: Moment) -> Quantity:
        """When a bucket is full."""
        return self.kept(moment.done + 1) + self.of(moment.height)


def stack_of(
    architecture: Architecture,
    workload: Workload,
    micro_batch: Quantity,
    length: Quantity,
    kernels: Kernels,
) -> Stack:
    """Records the language model's layers and evaluates them for a micro batch."""
    checkpointed = workload.grad_ckpt.language_model
    specs = decoder_specs(architecture, workload, kernels)
    layers = tuple((count, recorded_layer(spec, checkpointed)) for count, spec in specs)
    first = layers[0][1]
    if not reaches_embedding(architecture, workload):
        first = recorded_layer(specs[0][1], False, with_gradient=False)
    tokens = micro_batch * length + 0.0
    start = tokens * architecture.language_model.hidden * stream_bytes(workload)
    return Stack(layers, first, start, tokens, tokens * length)
