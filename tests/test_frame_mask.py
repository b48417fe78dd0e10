"""The frame mask from NumPy and JAX arrays, and inside transformed functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfl_jax.frame_mask import frame_mask

FRAMES = 4
LENGTHS = np.array([0, 1, 3, FRAMES], np.int32)
EXPECTED = [
    [False, False, False, False],
    [True, False, False, False],
    [True, True, True, False],
    [True, True, True, True],
]


def test_numpy_lengths_give_a_numpy_mask():
    mask = frame_mask(LENGTHS, FRAMES)
    assert isinstance(mask, np.ndarray) and mask.dtype == bool
    np.testing.assert_array_equal(mask, EXPECTED)


@pytest.mark.parametrize(
    "transform",
    [lambda f: f, jax.jit, jax.vmap, lambda f: jax.jit(jax.vmap(f))],
    ids=["eager", "jit", "vmap", "jit of vmap"],
)
def test_jax_lengths_give_a_jax_mask(transform):
    mask = transform(lambda lengths: frame_mask(lengths, FRAMES))(jnp.asarray(LENGTHS))
    assert isinstance(mask, jax.Array) and mask.dtype == bool
    np.testing.assert_array_equal(mask, EXPECTED)


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_any_number_of_leading_axes(array):
    assert frame_mask(array(LENGTHS[2]), FRAMES).tolist() == EXPECTED[2]
    assert frame_mask(array(LENGTHS.reshape(2, 1, 2)), FRAMES).tolist() == [[EXPECTED[:2]], [EXPECTED[2:]]]
    assert frame_mask(array(LENGTHS[:0]), FRAMES).shape == (0, FRAMES)


def test_a_clip_without_frames_has_an_empty_mask():
    assert frame_mask(np.array([0, 0]), 0).shape == (2, 0)


def test_lengths_beyond_the_clip_mark_every_frame():
    assert frame_mask(np.array([FRAMES + 3]), FRAMES).all()
