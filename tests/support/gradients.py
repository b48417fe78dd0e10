"""A convolution's value and its two gradients, and how near those of two ways to compute it must come."""

import jax
import numpy as np


def value_and_gradients(convolution, x, kernel, weights):
    value, gradients_of = jax.vjp(convolution, x, kernel)
    return value, *gradients_of(weights)


def assert_equal(got, want):
    """Equal within 1e-5 of the largest value, array by array."""
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())
