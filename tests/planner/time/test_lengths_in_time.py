import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.lengths import longest_of, mean_length
from planner.workload import Lengths


def _lengths(values):
    return Lengths(values=tuple(values), weights=(1 / len(values),) * len(values))


def test_a_fixed_length_is_itself():
    longest = longest_of(_lengths([512]), np.array([1.0, 64.0]))
    assert (longest.mean, longest.mean_square) == (512.0, 512.0**2)


def test_the_longest_of_many_draws_agrees_with_drawing():
    lengths = _lengths([100, 200, 300, 900])
    draws = np.random.default_rng(0).choice(lengths.values, size=(40_000, 8)).max(axis=1)
    longest = longest_of(lengths, 8.0)
    assert longest.mean == pytest.approx(draws.mean(), rel=0.01)
    assert longest.mean_square == pytest.approx((draws.astype(float) ** 2).mean(), rel=0.02)


@given(st.lists(st.integers(1, 10_000), min_size=2, max_size=30), st.integers(1, 512))
def test_the_longest_lies_between_mean_and_maximum_and_rises(values, samples):
    lengths = _lengths(values)
    found = float(longest_of(lengths, float(samples)).mean)
    more = float(longest_of(lengths, float(2 * samples)).mean)
    assert mean_length(lengths) * (1 - 1e-9) <= found <= more * (1 + 1e-9)
    assert more <= max(values) * (1 + 1e-9)


def test_arrays_answer_like_single_numbers():
    lengths = _lengths([10, 20, 40])
    many = longest_of(lengths, np.array([[1.0, 2.0], [2.0, 8.0]]))
    assert many.mean.shape == (2, 2)
    assert many.mean[0, 1] == many.mean[1, 0] == longest_of(lengths, 2.0).mean
