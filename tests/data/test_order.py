"""The order of the samples is fixed by seed and step, and blind to how the work is split."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcjobs.data.order import SampleOrder
from hpcjobs.run.errors import ConfigError


@given(
    samples=st.integers(1, 300),
    batch=st.integers(1, 40),
    seed=st.integers(-(2**40), 2**70),
    epoch=st.integers(0, 5),
)
def test_an_epoch_shows_each_sample_at_most_once_and_leaves_out_less_than_a_batch(
    samples, batch, seed, epoch
):
    if samples < batch:
        return
    order = SampleOrder(samples, batch, seed)
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    shown = [index for step in steps for index in order.of_step(step)]
    assert len(shown) == len(set(shown)) == samples // batch * batch
    assert set(shown) <= set(range(samples))


@given(
    world_size=st.integers(1, 8),
    micro_batch=st.integers(1, 8),
    accumulation=st.integers(1, 4),
    step=st.integers(0, 200),
    seed=st.integers(0, 100),
)
def test_ranks_and_micro_batches_put_side_by_side_are_the_step_whatever_the_split(
    world_size, micro_batch, accumulation, step, seed
):
    batch = world_size * micro_batch * accumulation
    order = SampleOrder(3 * batch + 1, batch, seed)
    ranks = [order.of_rank(step, rank, world_size, micro_batch) for rank in range(world_size)]
    assert all(len(micros) == accumulation for micros in ranks)
    assert all(len(micro) == micro_batch for micros in ranks for micro in micros)
    side_by_side = [index for turn in zip(*ranks, strict=True) for micro in turn for index in micro]
    assert side_by_side == order.of_step(step)


def test_the_order_does_not_depend_on_which_step_was_asked_for_before():
    forwards = SampleOrder(50, 8, 1)
    there = [forwards.of_step(step) for step in range(30)]
    assert [SampleOrder(50, 8, 1).of_step(step) for step in reversed(range(30))] == there[::-1]


@pytest.mark.parametrize(
    ("seed", "step", "indices"),
    [(42, 0, [4, 8, 1, 9]), (42, 1, [3, 6, 0, 7]), (42, 2, [1, 2, 8, 5]), (7, 0, [6, 3, 4, 9])],
)
def test_the_order_is_the_same_as_ever(seed, step, indices):
    """A run that is resumed after an upgrade must go on with the samples that it has not seen."""
    assert SampleOrder(10, 4, seed).of_step(step) == indices


def test_epochs_and_seeds_differ():
    orders = [
        tuple(SampleOrder(100, 100, seed).of_step(epoch)) for seed in (1, 2) for epoch in (0, 1)
    ]
    assert len(set(orders)) == 4


def test_fewer_samples_than_a_batch_are_refused_with_a_batch_that_fits():
    with pytest.raises(
        ConfigError, match=r"5 samples .* train\.global_batch=8: write train\.global_batch=5"
    ):
        SampleOrder(5, 8, 0)


def test_a_split_that_does_not_divide_the_batch_is_refused():
    with pytest.raises(ConfigError, match="no multiple of 3 processes x micro batch 2"):
        SampleOrder(20, 8, 0).of_rank(0, 0, 3, 2)
