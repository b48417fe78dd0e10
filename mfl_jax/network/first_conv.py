"""The first convolution: one input channel, pooled over mel bins.

Its output is the largest array of the network, eight times its pooled size, and the cheapest to compute: nine multiply-adds per
value. It is therefore never stored. The maximum of each window is computed as elementwise operations that compilers fuse, the
gradient of the kernel from the positions of the maxima, and batch norm's sums from the spectrogram.
"""

import functools

import jax
import jax.numpy as jnp

from mfl_jax.network import conv3x3
from mfl_jax.network.cpu import first_conv_products, on_cpu


def channel_sums(x: jax.Array, kernel: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Batch norm's sums over the convolution at the frames that `mask` selects.

    With u the nine inputs of the taps at one place and k the kernel of a channel, the output is k u, its sum is k (sum of u), and
    the sum of its squares is k (sum of u u^T) k^T.

    Args:
      x: [shape=(B, T, M)]; 0 where `mask` is False.
      kernel: [shape=(3, 3, 1, C)].
      mask: bool [shape=(B, T)].

    Returns:
      The number of values per channel [shape=()], their sum and the sum of their squares [shape=(C,)]; float32.
    """
    _, frames, bins = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1))).astype(jnp.float32)
    valid = mask[..., None].astype(jnp.float32)
    taps = [valid * padded[:, t : t + frames, f : f + bins] for t in range(3) for f in range(3)]
    products = on_cpu(first_conv_products.sum_products, elsewhere=_sum_products)(taps)
    # Always in full precision: the products are small, and their sum may be a small difference of large numbers.
    einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    kernel = kernel.reshape(9, -1).astype(jnp.float32)
    total = jnp.stack([tap.sum() for tap in taps])
    return jnp.sum(mask) * jnp.float32(bins), einsum("i,ic->c", total, kernel), einsum("ic,ij,jc->c", kernel, products, kernel)


def _sum_products(taps):
    """The sums of the products of all pairs of arrays, which compilers fuse: [shape=(9, 9)]."""
    upper = {(i, j): jnp.sum(taps[i] * taps[j]) for i in range(9) for j in range(i, 9)}
    return jnp.stack([jnp.stack([upper[min(i, j), max(i, j)] for j in range(9)]) for i in range(9)])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv_and_pool(x: jax.Array, kernel: jax.Array, bins: int) -> jax.Array:
    """Convolves ("same") and takes the maximum over windows of mel bins.

    Among equal maxima of a window, the lowest bin gets the gradient.

    Args:
      x: [shape=(B, T, M)].
      kernel: [shape=(3, 3, 1, C)].
      bins: length of a window; at most 127.

    Returns:
      [shape=(B, T, M // bins, C)].
    """
    return _forward(x, kernel, bins)[0]


def _forward(x, kernel, bins):
    taps, weights = _tap_inputs(x.astype(jnp.float32), bins), kernel[:, :, 0].astype(jnp.float32)

    def convolve_bin(k):
        return sum(taps[t][f + k] * weights[t, f] for t in range(3) for f in range(3))

    highest = convolve_bin(0)
    position = jnp.zeros(highest.shape, jnp.int8)
    for k in range(1, bins):
        value = convolve_bin(k)
        position = jnp.where(value > highest, jnp.int8(k), position)
        highest = jnp.maximum(value, highest)
    return highest.astype(x.dtype), (x, kernel, position)


def _tap_inputs(x, bins):
    """The inputs of tap (t, f) at bin k of every window: entry [t][f + k], [shape=(B, T, M // bins, 1)]."""
    frames, mel_bins = x.shape[1:]
    last = (mel_bins // bins - 1) * bins
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1)))
    return [[padded[:, t : t + frames, f : f + last + 1 : bins, None] for f in range(bins + 2)] for t in range(3)]


def _backward(bins, residuals, cotangent):
    x, kernel, position = residuals
    products, fused = (functools.partial(f, bins=bins) for f in (first_conv_products.kernel_gradient, _kernel_gradient))
    kernel_gradient = on_cpu(products, elsewhere=fused)(_tap_inputs(x, bins), position, cotangent)
    # XLA drops the gradient of the spectrogram unless the caller uses it.
    output_gradient = _output_gradient(position, cotangent, bins, x.shape[2])
    return conv3x3.input_gradient(kernel, output_gradient)[..., 0], kernel_gradient.astype(kernel.dtype)


def _kernel_gradient(taps, position, cotangent, *, bins):
    """The gradient with respect to the kernel, as nine sums that compilers fuse: float32 [shape=(3, 3, 1, C)]."""
    cotangent = cotangent.astype(jnp.float32)

    def tap_gradient(t, f):
        inputs = sum(jnp.where(position == k, taps[t][f + k].astype(jnp.float32), 0) for k in range(bins))
        return jnp.sum(inputs * cotangent, (0, 1, 2))

    return jnp.stack([jnp.stack([tap_gradient(t, f) for f in range(3)]) for t in range(3)])[:, :, None]


def _output_gradient(position, cotangent, bins, mel_bins):
    """The gradient with respect to the convolution's output: [shape=(B, T, M, C)]."""
    windows = jnp.where(position[..., None, :] == jnp.arange(bins)[:, None], cotangent[..., None, :], 0)
    gradient = windows.reshape(*windows.shape[:2], -1, windows.shape[-1])
    return jnp.pad(gradient, ((0, 0), (0, 0), (0, mel_bins - gradient.shape[2]), (0, 0)))


conv_and_pool.defvjp(_forward, _backward)
