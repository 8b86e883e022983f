"""The longest sample of a run, and the moments when a bucket is full."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.layout import Layout
from planner.lengths import longest_of
from planner.memory.lengths import longest_in_run
from planner.memory.reduction import reduction_of
from planner.read_workload import read_workload
from planner.workload import Lengths

LAYER = ((40, (0, 4, 0)), (60, (0, 2, 0)), (100, (0, 1, 0)))


@given(st.lists(st.integers(1, 4096), min_size=1, max_size=20), st.integers(1, 10_000))
def test_the_expected_longest_lies_between_mean_and_maximum(values: list[int], draws: int) -> None:
    shares = tuple(1 / len(values) for _ in values)
    found = longest_of(Lengths(values=tuple(values), weights=shares), float(draws)).mean
    assert sum(values) / len(values) - 1e-6 <= found <= max(values) + 1e-6


def test_the_longest_of_a_few_samples_is_what_simulation_says() -> None:
    lengths = Lengths(values=(100, 400, 900), weights=(0.6, 0.3, 0.1))
    drawn = np.random.default_rng(0).choice([100, 400, 900], (20_000, 5), p=[0.6, 0.3, 0.1])
    assert longest_of(lengths, 5.0).mean == pytest.approx(drawn.max(axis=1).mean(), rel=0.01)


def test_a_longer_run_meets_longer_samples() -> None:
    words = {"model": "gemma-2b", "method": "lora", "seq_len": [128] * 99 + [2048]}
    layout = Layout(1.0, 1.0, 1.0, 1.0)
    short, long = (
        longest_in_run(read_workload({**words, "steps": steps}), layout) for steps in (10, 10_000)
    )
    assert 128 < float(short) < 1000 < float(long) <= 2048


def test_a_bucket_larger_than_all_gradients_is_reduced_at_the_end() -> None:
    found = reduction_of(1000, 50, ((3, LAYER),), 200, 30)
    assert found.moments == ()
    assert found.pending == 50 + 3 * 100 + 200 + 30


def test_a_full_bucket_is_reduced_before_the_gradient_that_does_not_fit() -> None:
    moment = reduction_of(100, 90, ((3, LAYER),), 0, 0).moments[0]
    assert (moment.done, moment.elements, moment.height) == (0, 90, (0, 4, 0))


def test_an_embedding_larger_than_the_bucket_goes_alone() -> None:
    found = reduction_of(100, 0, ((1, LAYER),), 500, 0)
    assert found.alone
    assert found.pending == 500
