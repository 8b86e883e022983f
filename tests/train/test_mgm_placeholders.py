"""Pictures stand where their placeholders stand, in order, or the batch is refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpcjobs.run.errors import InputError
from hpcjobs.train.mgm.placeholders import (
    IMAGE_TOKEN_INDEX,
    check_placeholders,
    join_unused,
    place_pictures,
)

TOKENS = 3
X = [IMAGE_TOKEN_INDEX] * TOKENS

# A sample is a list of segments: None is a picture, a number that many words.
samples = st.lists(
    st.lists(st.one_of(st.none(), st.integers(1, 4)), min_size=1, max_size=5),
    min_size=1,
    max_size=4,
)


def ids_of(batch):
    rows = [[t for seg in row for t in (X if seg is None else [7] * seg)] for row in batch]
    longest = max(len(row) for row in rows)
    return torch.tensor([row + [0] * (longest - len(row)) for row in rows])


@given(samples)
def test_tokens_fill_the_placeholders_in_reading_order(batch):
    ids = ids_of(batch)
    pictures = sum(seg is None for row in batch for seg in row)
    tokens = torch.arange(1.0, pictures * TOKENS * 2 + 1).reshape(pictures, TOKENS, 2)
    is_picture = ids == IMAGE_TOKEN_INDEX
    check_placeholders(ids, pictures, TOKENS)
    mixed = place_pictures(torch.zeros(*ids.shape, 2), is_picture, tokens)
    assert torch.equal(mixed[is_picture], tokens.reshape(-1, 2))
    assert not mixed[~is_picture].any()


@pytest.mark.parametrize(
    ("batch", "pictures", "message"),
    [
        ([[*X, 7]], 0, "places for 1 pictures but holds 0"),
        ([[*X, 7]], 2, "places for 1 pictures but holds 2"),
        ([[7, 7, 7, 7]], 1, "places for 0 pictures but holds 1"),
        ([[7, *X[:2]]], 1, "sample 0 .* 2 picture positions"),
        # The sum is right, but the pictures would be cut across the samples.
        ([[*X, X[0], 7, 7], [*X[:2], 7, 7, 7, 7]], 2, "sample 0 .* 4 picture positions"),
    ],
)
def test_mismatch_is_refused(batch, pictures, message):
    with pytest.raises(InputError, match=message):
        check_placeholders(torch.tensor(batch), pictures, TOKENS)


def test_unused_tokens_change_nothing_but_get_a_gradient():
    tokens = torch.full((1, 4, 2), 6e4, dtype=torch.float16, requires_grad=True)
    text = torch.randn(2, 5, 2, dtype=torch.float16)
    joined = join_unused(text, tokens)
    assert torch.equal(joined, text)
    joined.sum().backward()
    assert torch.equal(tokens.grad, torch.zeros_like(tokens))
