"""The first convolution, which sees the spectrogram: one input channel, batch norm's sums, and the maximum over mel bins.

Its output is by far the largest array of the network (eight times its pooled self), and the least work: nine products a value.
So batch norm's sums are taken from what the nine taps see, without it, and a CPU computes each value, keeps the highest of a
window and where it stood, and never writes the output itself. Other hardware keeps the stock convolution.
"""

import functools

import jax
import jax.numpy as jnp

from mfl_jax.network import conv3x3


def channel_sums(x: jax.Array, kernel: jax.Array, clip_mask: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What batch norm needs to know of the convolution of a spectrogram: count, sum and sum of squares over the clips that count.

    With u the nine values that the taps see at a place and k a channel's kernel, the output is k u, its sum k (sum of u), and
    the sum of its squares k (sum of u u^T) k^T.

    Args:
      x: [shape=(B, T, M)]. kernel: [shape=(3, 3, 1, C)]. clip_mask: bool [shape=(B,)].

    Returns:
      float32 [shape=()], [shape=(C,)] and [shape=(C,)].
    """
    _, frames, bins = x.shape
    padded = jnp.pad(x * clip_mask[:, None, None], ((0, 0), (1, 1), (1, 1))).astype(jnp.float32)
    taps = [padded[:, t : t + frames, f : f + bins].reshape(-1) for t in range(3) for f in range(3)]
    taps, kernel = jnp.stack(taps, axis=-1), kernel.reshape(9, -1).astype(jnp.float32)
    # Small products, but differences of large numbers may lie in them: always in full precision.
    exactly = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    squares = exactly("ic,ij,jc->c", kernel, exactly("ni,nj->ij", taps, taps), kernel)
    return jnp.sum(clip_mask) * jnp.float32(frames * bins), exactly("i,ic->c", taps.sum(0), kernel), squares


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def highest_of_windows(x: jax.Array, kernel: jax.Array, bins: int) -> jax.Array:
    """Convolves ("same") and keeps the maximum over windows of mel bins; of several highest the lowest bin gets the gradient.

    Args:
      x: [shape=(B, T, M)]. kernel: [shape=(3, 3, 1, C)]. bins: length of a window, at most 127.

    Returns:
      [shape=(B, T, M // bins, C)].
    """
    return _forward(x, kernel, bins)[0]


def _seen(x, bins):
    """What tap (t, f) sees of bin k of every window: entry [t][f + k], [shape=(B, T, M // bins, 1)]."""
    frames, mel_bins = x.shape[1:]
    last = (mel_bins // bins - 1) * bins
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1)))
    return [[padded[:, t : t + frames, f : f + last + 1 : bins, None] for f in range(bins + 2)] for t in range(3)]


def _cpu_forward(x, kernel, *, bins):
    seen, kernel = _seen(x.astype(jnp.float32), bins), kernel[:, :, 0].astype(jnp.float32)
    highest = place = None
    for k in range(bins):
        value = sum(seen[t][f + k] * kernel[t, f] for t in range(3) for f in range(3))
        place = jnp.zeros(value.shape, jnp.int8) if k == 0 else jnp.where(value > highest, jnp.int8(k), place)
        highest = value if k == 0 else jnp.maximum(value, highest)
    return highest.astype(x.dtype), place


def _stock_forward(x, kernel, *, bins):
    values = conv3x3.conv3x3(x[..., None], kernel)
    windows = values[:, :, : x.shape[2] // bins * bins].reshape(*x.shape[:2], -1, bins, values.shape[-1])
    return windows.max(3), windows.argmax(3).astype(jnp.int8)


def _cpu_kernel_gradient(x, place, cotangent, *, bins):
    seen, channels = _seen(x, bins), cotangent.shape[-1]
    gradient = 0
    for k in range(bins):
        taps = jnp.concatenate([seen[t][f + k] for t in range(3) for f in range(3)], axis=-1).reshape(-1, 9)
        gradient += taps.T @ jnp.where(place == k, cotangent, 0).reshape(-1, channels)
    return gradient.reshape(3, 3, 1, channels)


def _spread(place, cotangent, bins, mel_bins):
    """The gradient with respect to the output of the convolution: [shape=(B, T, M, C)]."""
    windows = jnp.where(place[..., None, :] == jnp.arange(bins)[:, None], cotangent[..., None, :], 0)
    spread = windows.reshape(*windows.shape[:2], -1, windows.shape[-1])
    return jnp.pad(spread, ((0, 0), (0, 0), (0, mel_bins - spread.shape[2]), (0, 0)))


def _stock_kernel_gradient(x, place, cotangent, *, bins):
    return conv3x3.stock_kernel_gradient(x[..., None], _spread(place, cotangent, bins, x.shape[2]))


def _on_each_platform(cpu, stock, *arrays, bins):
    """Keeps networks that are vmapped apart, as `conv` does."""

    def choose(*arrays):
        ways = {"cpu": functools.partial(cpu, bins=bins), "default": functools.partial(stock, bins=bins)}
        return jax.lax.platform_dependent(*arrays, **ways)

    return conv3x3.unroll_vmap(choose)(*arrays)


def _forward(x, kernel, bins):
    highest, place = _on_each_platform(_cpu_forward, _stock_forward, x, kernel, bins=bins)
    return highest, (x, kernel, place)


def _backward(bins, saved, cotangent):
    x, kernel, place = saved
    of_kernel = _on_each_platform(_cpu_kernel_gradient, _stock_kernel_gradient, x, place, cotangent, bins=bins)
    # Of the spectrogram: computed only where someone asks for it.
    turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    return conv3x3.conv3x3(_spread(place, cotangent, bins, x.shape[2]), turned)[..., 0], of_kernel.astype(kernel.dtype)


highest_of_windows.defvjp(_forward, _backward)
