"""The order of the samples: a pure function of seed and step, the same for every world size."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hpcjobs.run.errors import ConfigError

_WORD = 1 << 64


@dataclass(frozen=True, slots=True)
class SampleOrder:
    """Deals samples out in global batches; an epoch's incomplete last batch is left out.

    >>> order = SampleOrder(samples=10, global_batch=4, seed=42)
    >>> order.steps_per_epoch, order.of_step(0)
    (2, [4, 8, 1, 9])
    >>> order.of_rank(0, rank=1, world_size=2, micro_batch=1)
    [[8], [9]]
    """

    samples: int
    global_batch: int
    seed: int

    def __post_init__(self) -> None:
        """Refuses fewer samples than one global batch.

        Raises:
            ConfigError: says which batch would fit.
        """
        if self.samples < self.global_batch:
            raise ConfigError(
                f"{self.samples} samples are fewer than train.global_batch={self.global_batch}: "
                f"write train.global_batch={max(1, self.samples)} or less, or add samples"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in which every sample is seen at most once."""
        return self.samples // self.global_batch

    def of_step(self, step: int) -> list[int]:
        """Indices of the global batch of a step, counted from 0."""
        epoch, position = divmod(step, self.steps_per_epoch)
        first = position * self.global_batch
        shuffled = _shuffled(self.samples, self.seed, epoch)
        return [int(index) for index in shuffled[first : first + self.global_batch]]

    def of_rank(self, step: int, rank: int, world_size: int, micro_batch: int) -> list[list[int]]:
        """One rank's micro batches of a step, in the order of accumulation.

        Put side by side over accumulation and then ranks they are ``of_step``, whatever the
        split.

        Raises:
            ConfigError: the global batch does not divide into that many micro batches.
        """
        batch, stride = self.of_step(step), world_size * micro_batch
        if len(batch) % stride:
            raise ConfigError(
                f"train.global_batch={len(batch)} is no multiple of {world_size} processes x "
                f"micro batch {micro_batch}"
            )
        starts = range(rank * micro_batch, len(batch), stride)
        return [batch[start : start + micro_batch] for start in starts]


@lru_cache(maxsize=2)
def _shuffled(samples: int, seed: int, epoch: int) -> NDArray[np.intp]:
    """A permutation, by sorting raw words of PCG64: NEP 19 fixes those across NumPy versions.

    The methods of ``Generator``, ``permutation`` among them, carry no such promise.
    """
    words = np.random.PCG64([seed % _WORD, epoch]).random_raw(samples)
    return np.argsort(words, kind="stable")
