"""The grid holds every layout that keeps the global batch exactly, and no other."""

import numpy as np
import pytest
from asks import A100, ask
from hypothesis import given
from hypothesis import strategies as st

from planner.errors import PlannerError
from planner.plan import CardOffer
from planner.search.grid import divisors, grid_of, refuse_inexact, spreads
from planner.search.limits import Limits

offers = st.builds(CardOffer, st.just(A100), st.integers(1, 16), st.integers(1, 96))


@given(st.integers(1, 4096), offers)
def test_every_layout_keeps_the_global_batch_and_the_offer(batch, offer):
    grid = grid_of(ask((offer,), batch), offer, Limits())
    product = grid.micro_batch * grid.grad_accum * grid.gpus
    assert np.all(product == batch)
    assert np.all(grid.grad_accum >= 1)
    assert np.all(grid.gpus <= offer.max_gpus)
    assert np.all(grid.gpus_per_node <= offer.gpus_per_node)
    assert np.all(grid.gpus % grid.gpus_per_node == 0)


@given(st.integers(1, 4096), offers)
def test_one_card_and_one_sample_are_always_possible(batch, offer):
    grid = grid_of(ask((offer,), batch), offer, Limits())
    assert np.any((grid.gpus == 1) & (grid.micro_batch == 1))


@given(st.integers(1, 5000))
def test_divisors_divide_and_none_is_missing(number):
    assert divisors(number) == [d for d in range(1, number + 1) if number % d == 0]


@pytest.mark.parametrize(
    ("limits", "counts"),
    [
        (Limits(gpus=4), [(4, 4)]),
        (Limits(nodes=2), [(2, 1), (4, 2), (8, 4), (16, 8)]),
        (Limits(gpus_per_node=4), [(4, 4), (8, 4), (16, 4)]),
        (Limits(gpus=8, gpus_per_node=2), []),
        (Limits(gpus=5), [(5, 5)]),
    ],
)
def test_given_numbers_are_kept(limits, counts):
    offer = CardOffer(A100, 8, 32)
    found = [(s.gpus, s.gpus_per_node) for s in spreads(16, offer, limits)]
    assert found == counts


@pytest.mark.parametrize(
    ("batch", "micro", "limits", "said"),
    [
        (128, (3,), Limits(), "the nearest that can are 126 and 129"),
        (
            100,
            (1,),
            Limits(gpus=8),
            "with cards 8 and micro batch 1: the nearest that can are 96 and 104",
        ),
        (128, (4,), Limits(gpus=8, grad_accum=3), "the nearest that can are 96"),
        (128, (1,), Limits(gpus=64), "no offer has that many cards (cards 64)"),
        (0, (1,), Limits(), "the global batch must be at least 1"),
    ],
)
def test_a_batch_that_cannot_be_kept_is_refused_with_the_nearest(batch, micro, limits, said):
    with pytest.raises(PlannerError) as error:
        refuse_inexact(ask(global_batch=batch, micro_batches=micro), limits)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
