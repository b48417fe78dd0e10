"""Max pooling against PyTorch's and JAX's maximum; its gradient compiled against one operation at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mfl_jax.network.joint_network import JointNetwork
from mfl_jax.network.max_pool import max_pool
from support.networks import assert_close, noise, split, tensor


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


@pytest.mark.ci_only
def test_compiled_gradients_equal_those_computed_one_operation_at_a_time():
    # A compiler may compute a value twice with different rounding. A gradient that compares the two then finds no maximum.
    # Clips that are half padding have many exactly equal values.
    graphdef, params, batch_stats = split(
        JointNetwork(frames=500, mel_bins=32, scenes=3, events=0, tasks=("scene",), channels=4, rngs=nnx.Rngs(params=0))
    )
    log_mel = jnp.asarray(noise(4, 500, 32)).at[:, 250:].set(0)
    weights = noise(4, 3, seed=1)

    def loss(params):
        scenes, _ = nnx.merge(graphdef, params, batch_stats, copy=True)(log_mel, train=True)
        return jnp.sum(scenes * weights)

    compiled = jax.jit(jax.grad(loss))(params)
    with jax.disable_jit():
        one_at_a_time = jax.grad(loss)(params)
    assert_close(compiled, one_at_a_time, 1e-4, "gradient of ")
