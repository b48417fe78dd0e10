"""Max pooling against PyTorch's and JAX's maximum."""

import jax
import numpy as np
import pytest

from mfl_jax.network.max_pool import max_pool
from support.networks import noise, tensor


@pytest.mark.parametrize(
    ("shape", "window"),
    [((2, 6, 8, 3), (1, 8)), ((2, 50, 3, 2), (25, 1)), ((2, 7, 5, 3), (2, 2)), ((1, 59, 9, 2), (25, 4)), ((2, 5, 4, 3), (5, 4))],
    ids=str,
)
def test_max_pool_equals_torch(peer, shape, window):
    x = noise(*shape)
    reference = tensor(peer, x.transpose(0, 3, 1, 2), requires_grad=True)
    expected = peer.torch.nn.functional.max_pool2d(reference, window)
    pooled, gradient_of = jax.vjp(lambda x: max_pool(x, *window), x)
    assert pooled.shape == (shape[0], shape[1] // window[0], shape[2] // window[1], shape[3])
    np.testing.assert_allclose(pooled, expected.detach().numpy().transpose(0, 2, 3, 1), rtol=1e-6)

    weights = noise(*pooled.shape, seed=1)
    (expected * tensor(peer, weights.transpose(0, 3, 1, 2))).sum().backward()
    # The incomplete windows at the end are dropped; their gradient is zero.
    np.testing.assert_allclose(gradient_of(weights)[0], reference.grad.numpy().transpose(0, 2, 3, 1), rtol=1e-6)


def test_equal_maxima_share_the_gradient_as_in_jax():
    """Many equal values, and incomplete windows at the end."""
    x = np.round(noise(2, 7, 9, 3)).astype(np.float32)

    def jax_maximum(x):
        return x[:, :6, :8].reshape(2, 3, 2, 2, 4, 3).max(axis=(2, 4))

    (pooled, gradient_of), (expected, expected_gradient_of) = (jax.vjp(f, x) for f in (lambda x: max_pool(x, 2, 4), jax_maximum))
    weights = noise(*expected.shape, seed=1)
    np.testing.assert_allclose(pooled, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient_of(weights)[0], expected_gradient_of(weights)[0], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pooling_keeps_no_map_of_integers(dtype):
    """Positions as 32-bit integers would take twice the memory of bfloat16 values."""
    x = noise(2, 50, 8, 3).astype(dtype)
    kept = jax.tree.leaves(jax.vjp(lambda x: max_pool(x, 25, 2), x)[1])
    assert kept and not any(np.issubdtype(leaf.dtype, np.integer) for leaf in kept)
