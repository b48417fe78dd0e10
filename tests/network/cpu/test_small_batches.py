"""Inference in small batches against the same function on the whole batch."""

import jax
import numpy as np
import pytest

from mfl_jax.network.cpu import small_batches


def batch_of(clips):
    rng = np.random.default_rng(0)
    return {
        "log_mel": jax.numpy.asarray(rng.standard_normal((clips, 5, 3)), np.float32),
        "valid_frames": jax.numpy.arange(clips) % 6,
        "clip_mask": jax.numpy.arange(clips) % 2 == 0,
    }


def summarise(batch):
    """Uses all entries, and returns arrays with and without frames, and None as for a head that is not built."""
    total = batch["log_mel"].sum((1, 2)) * batch["clip_mask"] + batch["valid_frames"]
    return {"clips": total, "frames": batch["log_mel"] * 2, "other": None}


@pytest.mark.parametrize("clips", [1, 3, 4, 5, 8, 9])
def test_equals_the_function_of_the_whole_batch(clips):
    batch = batch_of(clips)
    results = jax.jit(lambda batch: small_batches.map_small_batches(summarise, batch))(batch)
    expected = summarise(batch)
    assert results.keys() == expected.keys() and results["other"] is None
    for name in ("clips", "frames"):
        assert results[name].shape == expected[name].shape
        np.testing.assert_allclose(results[name], expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("clips", "size"), [(1, 1), (4, 4), (5, 3), (8, 4), (9, 3)])
def test_batches_are_of_equal_size_and_at_most_four_clips(clips, size):
    sizes = []
    small_batches.map_small_batches(lambda batch: sizes.append(len(batch["clip_mask"])) or batch, batch_of(clips))
    assert set(sizes) == {size}
