"""Batches: their order, their padding, and errors of the threads that read ahead."""

import numpy as np
import pytest

from mfl_jax.data import batching


def test_batches_hold_every_clip_once_and_mask_the_padding(prepared):
    clips = prepared.read("development")
    order = batching.shuffle_indices(np.arange(len(clips)), seed=3, epoch=1)
    assert sorted(order) == list(range(24))
    batches = list(batching.read_batches(clips, order, 10, rows=slice(0, 12)))
    assert [batch["clip_mask"].sum() for batch in batches] == [10, 10, 4]
    assert all(batch["log_mel"].shape == (12, 50, 32) for batch in batches)
    joined = np.concatenate([batch["log_mel"][batch["clip_mask"]] for batch in batches])
    np.testing.assert_array_equal(joined, clips.take(order)["log_mel"])
    assert not any(batch["log_mel"][~batch["clip_mask"]].any() for batch in batches)


def test_the_order_depends_only_on_seed_and_epoch():
    indices = np.arange(100)
    seeds_and_epochs = ((0, 0), (0, 1), (1, 0), (0, 0))
    orders = [batching.shuffle_indices(indices, seed=seed, epoch=epoch).tolist() for seed, epoch in seeds_and_epochs]
    assert orders[0] == orders[3] and len({tuple(order) for order in orders}) == 3


def test_an_error_while_reading_ahead_reaches_the_caller(prepared):
    clips = prepared.read("development")
    with pytest.raises(IndexError):
        list(batching.read_batches(clips, np.array([0, 99]), 2))


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (3, [3]), (4, [4]), (9, [4, 4, 1])])
def test_indices_are_split_in_order(count, sizes):
    batches = batching.split_into_batches(np.arange(count), 4)
    assert [len(batch) for batch in batches] == sizes
    assert [index for batch in batches for index in batch] == list(range(count))
