"""Max pooling with a hand-written gradient, which takes XLA less than half the time of the one it derives."""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x: jax.Array, frames: int, bins: int) -> jax.Array:
    """Maximum over non-overlapping windows; equal maxima of a window share its gradient equally.

    Args:
      x: [shape=(B, T, F, C)].
      frames: length of a window in frames.
      bins: length of a window in bins.

    Returns:
      [shape=(B, T // frames, F // bins, C)].
    """
    return _windows(x, frames, bins).max(axis=(2, 4))


def pool_mask(mask: jax.Array, frames: int) -> jax.Array:
    """Marks the windows that hold a valid frame: bool [shape=(B, T)] -> [shape=(B, T // frames)]."""
    windows = mask.shape[1] // frames
    return mask[:, : windows * frames].reshape(-1, windows, frames).any(-1)


def _windows(x, frames, bins):
    """[shape=(B, T, F, C)] -> [shape=(B, T // frames, frames, F // bins, bins, C)], without the incomplete windows."""
    batch, time, frequency, channels = x.shape
    time, frequency = time // frames, frequency // bins
    x = x[:, : time * frames, : frequency * bins]
    return x.reshape(batch, time, frames, frequency, bins, channels)


def _forward(x, frames, bins):
    highest = max_pool(x, frames, bins)
    return highest, (x, highest)


def _backward(frames, bins, residuals, cotangent):
    x, highest = residuals
    is_highest = _windows(x, frames, bins) == highest[:, :, None, :, None]
    share = cotangent / is_highest.sum((2, 4)).astype(x.dtype)
    gradient = jnp.where(is_highest, share[:, :, None, :, None], 0)
    used = (highest.shape[1] * frames, highest.shape[2] * bins)
    gradient = gradient.reshape(x.shape[0], *used, x.shape[3])
    return (jnp.pad(gradient, ((0, 0), (0, x.shape[1] - used[0]), (0, x.shape[2] - used[1]), (0, 0))),)


max_pool.defvjp(_forward, _backward)
