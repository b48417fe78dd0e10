"""A convolution's value and gradients, and their comparison with another implementation."""

import jax
import numpy as np


def value_and_gradients(convolution, x, kernel, weights):
    """The value, and the gradients of its weighted sum with respect to x and the kernel."""
    value, gradients_of = jax.vjp(convolution, x, kernel)
    return value, *gradients_of(weights)


def assert_near(ours, expected):
    """Asserts that arrays are equal within 1e-5 of the largest absolute value of each."""
    for array, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(array, other, rtol=0, atol=1e-5 * np.abs(other).max())
