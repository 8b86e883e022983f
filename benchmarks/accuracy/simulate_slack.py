"""What the caching allocator reserves for a checkpointed decoder, at one length and at many.

``python benchmarks/accuracy/simulate_slack.py`` prints reserved over the peak of the transient
tensors for samples of ms-swift's benchmark data set, over a few orders of the samples, and the
share of the unused bytes that a full card could not get back (about a minute).
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.accuracy.allocator import Block, CachingAllocator
from benchmarks.accuracy.lengths import fudan_news

SAMPLES, ORDERS = 100, 6


@dataclass(frozen=True, slots=True)
class Model:
    """Sizes of a decoder; eight layers behave as all."""

    hidden: int
    intermediate: int
    key_value: int
    vocab: int
    layers: int = 8


MODELS = {
    "Qwen-7B (vocabulary 152k)": Model(4096, 11008, 4096, 151936),
    "Yi-6B (vocabulary 64k)": Model(4096, 11008, 512, 64000),
    "Mistral-7B (vocabulary 37k)": Model(4096, 14336, 1024, 36608),
}


class Step:
    """One training step of one sample: tensors come and go in the order of the model's file."""

    def __init__(self, pool: CachingAllocator, model: Model, tokens: int) -> None:
        self.pool, self.model, self.tokens = pool, model, tokens

    def new(self, width: float) -> Block | None:
        """A tensor of so many bytes a token."""
        return self.pool.request(self.tokens * width)

    def run(self) -> None:
        """Forward with checkpoints, loss in fp32, backward layer by layer."""
        stack = [self.new(2 * self.model.hidden)]
        for _ in range(self.model.layers):
            output, saved = self.layer()
            self.free(*saved)
            stack.append(output)
        gradient = self.loss()
        self.free(stack.pop())
        for _ in range(self.model.layers):
            gradient = self.backward(gradient)
            self.free(stack.pop())
        self.free(gradient)

    def layer(self) -> tuple[Block | None, list[Block | None]]:
        """A layer's output, and what its backward would need."""
        h, f, kv = self.model.hidden, self.model.intermediate, self.model.key_value
        saved = [self.new(4 * h), self.new(2 * h)]
        plain = [self.new(2 * h), self.new(2 * kv)]
        saved += [self.new(2 * h), self.new(2 * kv), self.new(2 * kv)]
        self.free(*plain)
        saved.append(self.new(2 * h))
        projected = self.new(2 * h)
        saved.append(self.new(2 * h))
        self.free(projected)
        saved += [self.new(4 * h), self.new(2 * h)]
        saved += [self.new(2 * f) for _ in range(4)]
        down = self.new(2 * h)
        output = self.new(2 * h)
        self.free(down)
        return output, saved

    def backward(self, gradient: Block | None) -> Block | None:
        """Recomputes a layer and takes its gradients."""
        h, f = self.model.hidden, self.model.intermediate
        output, saved = self.layer()
        self.free(output)
        wide = [self.new(2 * f) for _ in range(3)]
        narrow = [self.new(2 * h) for _ in range(2)]
        self.free(*wide)
        attention = [self.new(2 * h) for _ in range(4)]
        norm, following = self.new(4 * h), self.new(2 * h)
        self.free(norm, gradient, *narrow, *attention, *saved)
        return following

    def loss(self) -> Block | None:
        """Logits, fp32 copies, log-softmax and their gradients; the last layer's gradient."""
        h, v = self.model.hidden, self.model.vocab
        normed, logits = self.new(2 * h), self.new(2 * v)
        wide = self.new(4 * v)
        logs = self.new(4 * v)
        self.free(wide)
        first = self.new(4 * v)
        second = self.new(4 * v)
        self.free(first, logs)
        narrow = self.new(2 * v)
        self.free(second, logits)
        gradient = self.new(2 * h)
        self.free(narrow, normed)
        return gradient

    def free(self, *blocks: Block | None) -> None:
        """Gives blocks back."""
        for block in blocks:
            self.pool.release(block)


def reserved(model: Model, lengths: list[int]) -> tuple[float, float]:
    """Reserved over the allocated peak, and the stuck share of what is unused at the peak."""
    pool = CachingAllocator()
    for tokens in lengths:
        Step(pool, model, tokens).run()
    unused = max(1, pool.reserved - pool.peak_allocated)
    return pool.reserved / pool.peak_allocated, pool.stuck_at_peak / unused


def main() -> None:
    """The command."""
    for name, model in MODELS.items():
        ratio, stuck = reserved(model, [2048] * 3)
        print(f"{name}: one length {ratio:.2f}, stuck {100 * stuck:.0f} %")
        for longest in (1024, 2048, 8192):
            values = np.array(fudan_news(longest)["values"])
            found = []
            for order in range(ORDERS):
                draw = np.random.default_rng(order).choice(values, SAMPLES)
                found.append(reserved(model, [*map(int, draw), longest]))
            ratios = sorted(ratio for ratio, _ in found)
            stuck = median(stuck for _, stuck in found)
            words = ", ".join(f"{ratio:.1f}" for ratio in ratios)
            print(f"{name}: lengths up to {longest}: {words}; stuck {100 * stuck:.0f} %")


if __name__ == "__main__":
    main()
