"""Patch info mining agrees with a loop that follows the paper's text."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hpcjobs.train.mgm.mining import mine, mining_projector, split_patches


def mine_by_loops(lowres, highres, query, key, value):
    """One patch at a time: its square, the scores, the weights, the weighted sum."""
    pictures, patches, width = lowres.shape
    grid = math.isqrt(patches)
    side = highres.shape[-1] // grid
    found = torch.zeros_like(lowres)
    for p in range(pictures):
        for n in range(patches):
            top, left = (n // grid) * side, (n % grid) * side
            square = [highres[p, :, top + y, left + x] for y in range(side) for x in range(side)]
            q = query(lowres[p, n])
            scores = torch.stack([q @ key(point) for point in square]) / math.sqrt(width)
            weights = scores.exp() / scores.exp().sum()
            found[p, n] = sum(w * value(s) for w, s in zip(weights, square, strict=True))
    return found


@settings(max_examples=25, deadline=None)
@given(
    pictures=st.integers(1, 2),
    grid=st.integers(1, 3),
    inner=st.integers(1, 3),
    width=st.integers(2, 5),
    channels=st.integers(2, 6),
    seed=st.integers(0, 100),
)
def test_matches_the_loop(pictures, grid, inner, width, channels, seed):
    torch.manual_seed(seed)
    lowres = torch.randn(pictures, grid**2, width, dtype=torch.float64)
    highres = torch.randn(pictures, channels, grid * inner, grid * inner, dtype=torch.float64)
    query = mining_projector(width, width).double()
    key, value = (mining_projector(channels, width).double() for _ in range(2))
    with torch.no_grad():
        ours = mine(lowres, highres, query, key, value)
        torch.testing.assert_close(ours, mine_by_loops(lowres, highres, query, key, value))


@given(grid=st.integers(1, 4), inner=st.integers(1, 4))
def test_squares_cover_the_map_once(grid, inner):
    side = grid * inner
    places = torch.arange(side * side).reshape(1, 1, side, side)
    squares = split_patches(places, grid)
    assert squares.shape == (1, grid**2, inner**2, 1)
    assert sorted(squares.flatten().tolist()) == list(range(side * side))


def test_square_of_a_patch_lies_where_the_patch_lies():
    places = torch.arange(36).reshape(1, 1, 6, 6)
    squares = split_patches(places, 3)[0, :, :, 0]
    assert squares[0].tolist() == [0, 1, 6, 7]  # top left
    assert squares[5].tolist() == [16, 17, 22, 23]  # second row, right
    assert squares[8].tolist() == [28, 29, 34, 35]  # bottom right


def test_a_patch_sees_no_other_square():
    torch.manual_seed(0)
    lowres, highres = torch.randn(1, 4, 3), torch.randn(1, 5, 4, 4)
    query, key, value = mining_projector(3, 3), mining_projector(5, 3), mining_projector(5, 3)
    changed = highres.clone()
    changed[..., 2:, 2:] = torch.randn(1, 5, 2, 2)  # the square of patch 3
    with torch.no_grad():
        before = mine(lowres, highres, query, key, value)
        after = mine(lowres, changed, query, key, value)
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3], after[:, 3])


def test_overflowing_scores_do_not_become_nan():
    def huge(features):
        return torch.full((*features.shape[:-1], 3), 1e30)

    found = mine(torch.randn(1, 4, 3), torch.randn(1, 5, 4, 4), huge, huge, nn.Linear(5, 3))
    assert found.isfinite().all()
