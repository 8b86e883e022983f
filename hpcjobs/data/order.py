"""The order of the samples: a pure function of seed and step, the same for every world size."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from hpcjobs.run.errors import ConfigError


@dataclass(frozen=True, slots=True)
class SampleOrder:
    """Deals samples out in global batches; an epoch's incomplete last batch is left out."""

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
                f"lower train.global_batch or add samples"
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
        return list(shuffled[first : first + self.global_batch])

    def of_rank(self, step: int, rank: int, world_size: int, micro_batch: int) -> list[list[int]]:
        """One rank's micro batches of a step, in the order of accumulation.

        Put side by side over ranks and accumulation they are ``of_step``, whatever the split.
        """
        batch, stride = self.of_step(step), world_size * micro_batch
        starts = range(rank * micro_batch, len(batch), stride)
        return [batch[start : start + micro_batch] for start in starts]


@lru_cache(maxsize=2)
def _shuffled(samples: int, seed: int, epoch: int) -> tuple[int, ...]:
    """A permutation by NumPy's PCG64, whose stream is fixed across versions (NEP 19)."""
    generator = np.random.Generator(np.random.PCG64([seed, epoch]))
    keys = generator.random(samples)
    return tuple(np.argsort(keys, kind="stable").tolist())
