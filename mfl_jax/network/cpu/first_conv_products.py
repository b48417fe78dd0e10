"""Sums of the first convolution on CPUs, as matrix products."""

import jax
import jax.numpy as jnp


def sum_products(taps: list[jax.Array]) -> jax.Array:
    """The sums of the products of all pairs of nine arrays: [shape=(9, 9)]."""
    inputs = jnp.stack([tap.reshape(-1) for tap in taps], axis=-1)
    return jnp.einsum("ni,nj->ij", inputs, inputs, precision=jax.lax.Precision.HIGHEST)


def kernel_gradient(taps: list[list[jax.Array]], position: jax.Array, cotangent: jax.Array, *, bins: int) -> jax.Array:
    """The gradient of the pooled convolution with respect to its kernel, one mel bin of every window at a time.

    Args:
      taps: the input of tap (t, f) at bin k of every window in entry [t][f + k] [shape=(B, T, windows, 1)].
      position: of the maxima within their windows, int8 [shape=(B, T, windows, C)].
      cotangent: of the maxima [shape=(B, T, windows, C)].
      bins: length of a window.

    Returns:
      float32 [shape=(3, 3, 1, C)].
    """
    channels = cotangent.shape[-1]

    def bin_gradient(k):
        inputs = jnp.concatenate([taps[t][f + k] for t in range(3) for f in range(3)], axis=-1).reshape(-1, 9)
        selected = jnp.where(position == k, cotangent, 0).reshape(-1, channels)
        return jnp.matmul(inputs.T, selected, preferred_element_type=jnp.float32)

    return sum(map(bin_gradient, range(bins))).reshape(3, 3, 1, channels)
