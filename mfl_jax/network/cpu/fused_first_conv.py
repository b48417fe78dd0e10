"""The first convolution and its pooling on CPUs, one mel bin of every pooling window at a time.

Each value takes nine multiply-adds and is compared with the highest value of its window so far. The convolution's output, by far
the largest array of the network, is never stored.
"""

import jax
import jax.numpy as jnp


def conv_and_pool(x: jax.Array, kernel: jax.Array, *, bins: int) -> tuple[jax.Array, jax.Array]:
    """Convolves and takes the maximum over windows of mel bins.

    Args:
      x: [shape=(B, T, M)].
      kernel: [shape=(3, 3, 1, C)].
      bins: length of a window.

    Returns:
      The maxima [shape=(B, T, M // bins, C)] and their positions within the windows, int8 of the same shape.
    """
    taps, kernel = _tap_inputs(x.astype(jnp.float32), bins), kernel[:, :, 0].astype(jnp.float32)

    def convolve_bin(k):
        return sum(taps[t][f + k] * kernel[t, f] for t in range(3) for f in range(3))

    highest = convolve_bin(0)
    position = jnp.zeros(highest.shape, jnp.int8)
    for k in range(1, bins):
        value = convolve_bin(k)
        position = jnp.where(value > highest, jnp.int8(k), position)
        highest = jnp.maximum(value, highest)
    return highest.astype(x.dtype), position


def kernel_gradient(x: jax.Array, position: jax.Array, cotangent: jax.Array, *, bins: int) -> jax.Array:
    """The gradient of the maxima with respect to the kernel, given their positions: [shape=(3, 3, 1, C)]."""
    taps, channels = _tap_inputs(x, bins), cotangent.shape[-1]

    def bin_gradient(k):
        inputs = jnp.concatenate([taps[t][f + k] for t in range(3) for f in range(3)], axis=-1).reshape(-1, 9)
        return inputs.T @ jnp.where(position == k, cotangent, 0).reshape(-1, channels)

    return sum(map(bin_gradient, range(bins))).reshape(3, 3, 1, channels)


def _tap_inputs(x, bins):
    """The inputs of tap (t, f) at bin k of every window: entry [t][f + k], [shape=(B, T, M // bins, 1)]."""
    frames, mel_bins = x.shape[1:]
    last = (mel_bins // bins - 1) * bins
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1)))
    return [[padded[:, t : t + frames, f : f + last + 1 : bins, None] for f in range(bins + 2)] for t in range(3)]
