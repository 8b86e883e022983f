"""Lengths of samples: what padding and the slowest card make of a distribution."""

import functools
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from planner.layout import Quantity
from planner.workload import Lengths


@dataclass(frozen=True, slots=True)
class Longest:
    """The longest of some samples drawn at random."""

    mean: Quantity
    mean_square: Quantity
    """What attention goes by."""


def mean_length(lengths: Lengths) -> float:
    """Tokens of the average sample.

    >>> mean_length(Lengths(values=(100, 300), weights=(0.5, 0.5)))
    200.0
    """
    return float(np.dot(lengths.values, lengths.weights))


def longest_of(lengths: Lengths, samples: Quantity) -> Longest:
    """First two moments of the longest of ``samples`` samples.

    The longest of n independent draws has the distribution F^n (order statistics, David and
    Nagaraja, section 2.1).

    >>> coin = Lengths(values=(100, 300), weights=(0.5, 0.5))
    >>> float(longest_of(coin, 1.0).mean), float(longest_of(coin, 2.0).mean)
    (200.0, 250.0)
    """
    if len(lengths.values) == 1:
        only = float(lengths.values[0])
        return Longest(only, only * only)
    drawn = np.asarray(samples, dtype=float)
    return _longest_of(lengths, drawn.tobytes(), drawn.shape)


@functools.lru_cache(maxsize=256)
def _longest_of(lengths: Lengths, samples: bytes, shape: tuple[int, ...]) -> Longest:
    """A search asks the same for every card and stage."""
    drawn = np.frombuffer(samples, dtype=float)
    values, inverse = np.unique(drawn, return_inverse=True)
    means, squares = (moment[inverse].reshape(shape) for moment in _moments(lengths, values))
    means.flags.writeable = squares.flags.writeable = False
    return Longest(cast("Quantity", means[()]), cast("Quantity", squares[()]))


def _moments(
    lengths: Lengths, samples: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    values, below = _distribution(lengths)
    shares = np.diff(below ** samples[:, None], prepend=0.0, axis=1)
    return shares @ values, shares @ values**2


@functools.lru_cache(maxsize=64)
def _distribution(lengths: Lengths) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lengths in rising order, and the shares of samples that are no longer."""
    order = np.argsort(lengths.values)
    values = np.asarray(lengths.values, dtype=float)[order]
    below = np.minimum(np.cumsum(np.asarray(lengths.weights, dtype=float)[order]), 1.0)
    below[-1] = 1.0
    return values, below
