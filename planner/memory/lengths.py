"""The longest micro batch of a run: it decides the peak."""

from planner.layout import Layout, Quantity
from planner.lengths import longest_of
from planner.workload import Workload

UNKNOWN_STEPS = 1000
"""Optimizer steps of a run that names neither steps nor samples."""


def longest_in_run(workload: Workload, layout: Layout) -> Quantity:
    """Expected length of the longest sample that any card meets; others are padded to it."""
    return longest_of(workload.seq_len, samples_of(workload, layout)).mean


def samples_of(workload: Workload, layout: Layout) -> Quantity:
    """Samples of the whole run."""
    if workload.steps is not None:
        return workload.steps * layout.global_batch
    if workload.samples is not None:
        samples: Quantity = max(workload.samples * workload.epochs, 1.0)
        return samples + 0.0 * layout.global_batch
    return UNKNOWN_STEPS * layout.global_batch
