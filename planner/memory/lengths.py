"""The longest micro batch of a run: it decides the peak."""

import numpy as np

from planner.layout import Layout, Quantity
from planner.workload import Lengths, Workload

UNKNOWN_STEPS = 1000
"""Optimizer steps of a run that names neither steps nor samples."""


def longest_of(workload: Workload, layout: Layout) -> Quantity:
    """Expected length of the longest sample that any card meets; its neighbours are padded to it.

    The longest of n draws is at most v with probability F(v)^n.
    """
    lengths = workload.seq_len
    if len(lengths.values) == 1:
        return float(lengths.values[0])
    return expected_longest(lengths, samples_of(workload, layout))


def samples_of(workload: Workload, layout: Layout) -> Quantity:
    """Samples of the whole run."""
    if workload.steps is not None:
        return workload.steps * layout.global_batch
    if workload.samples is not None:
        samples: Quantity = max(workload.samples * workload.epochs, 1.0)
        return samples + 0.0 * layout.global_batch
    return UNKNOWN_STEPS * layout.global_batch


def expected_longest(lengths: Lengths, draws: Quantity) -> Quantity:
    """Expected maximum of that many draws.

    >>> expected_longest(Lengths(values=(1, 2), weights=(0.5, 0.5)), 2.0)
    1.75
    """
    order = np.argsort(lengths.values)
    values = np.asarray(lengths.values, dtype=float)[order]
    below = np.minimum(np.cumsum(np.asarray(lengths.weights)[order]), 1.0)
    below[-1] = 1.0
    powers = below ** np.expand_dims(np.asarray(draws, dtype=float), -1)
    shares = np.diff(powers, axis=-1, prepend=0.0)
    longest = shares @ values
    return float(longest) if np.ndim(longest) == 0 else longest
