"""The first convolution: one input channel, pooled over mel bins.

Its output is the largest array of the network, eight times its pooled size, and the cheapest to compute: nine multiply-adds per
value. Batch norm's sums are therefore computed from the spectrogram, without the output, and the maximum's gradient is
computed from stored positions, so that CPUs need not store the output at all.
"""

import functools

import jax
import jax.numpy as jnp

from mfl_jax.network import conv3x3
from mfl_jax.network.cpu import fused_first_conv, on_cpu
from mfl_jax.network.unroll_vmap import unroll_vmap


def channel_sums(x: jax.Array, kernel: jax.Array, clip_mask: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Batch norm's sums over the convolution of the spectrograms that `clip_mask` selects.

    With u the nine inputs of the taps at one place and k the kernel of a channel, the output is k u, its sum is k (sum of u), and
    the sum of its squares is k (sum of u u^T) k^T.

    Args:
      x: [shape=(B, T, M)].
      kernel: [shape=(3, 3, 1, C)].
      clip_mask: bool [shape=(B,)].

    Returns:
      The number of values per channel [shape=()], their sum and the sum of their squares [shape=(C,)]; float32.
    """
    _, frames, bins = x.shape
    padded = jnp.pad(x * clip_mask[:, None, None], ((0, 0), (1, 1), (1, 1))).astype(jnp.float32)
    shifted = [padded[:, t : t + frames, f : f + bins].reshape(-1) for t in range(3) for f in range(3)]
    taps, kernel = jnp.stack(shifted, axis=-1), kernel.reshape(9, -1).astype(jnp.float32)
    # Always in full precision: the products are small, and their sum may be a small difference of large numbers.
    einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    squares = einsum("ic,ij,jc->c", kernel, einsum("ni,nj->ij", taps, taps), kernel)
    return jnp.sum(clip_mask) * jnp.float32(frames * bins), einsum("i,ic->c", taps.sum(0), kernel), squares


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


def _stock_conv_and_pool(x, kernel, *, bins):
    values = conv3x3.conv3x3(x[..., None], kernel)
    windows = values[:, :, : x.shape[2] // bins * bins].reshape(*x.shape[:2], -1, bins, values.shape[-1])
    return windows.max(3), windows.argmax(3).astype(jnp.int8)


def _stock_kernel_gradient(x, position, cotangent, *, bins):
    return conv3x3.stock_kernel_gradient(x[..., None], _output_gradient(position, cotangent, bins, x.shape[2]))


def _output_gradient(position, cotangent, bins, mel_bins):
    """The gradient with respect to the convolution's output: [shape=(B, T, M, C)]."""
    windows = jnp.where(position[..., None, :] == jnp.arange(bins)[:, None], cotangent[..., None, :], 0)
    gradient = windows.reshape(*windows.shape[:2], -1, windows.shape[-1])
    return jnp.pad(gradient, ((0, 0), (0, 0), (0, mel_bins - gradient.shape[2]), (0, 0)))


def _forward(x, kernel, bins):
    cpu_form, stock = (functools.partial(f, bins=bins) for f in (fused_first_conv.conv_and_pool, _stock_conv_and_pool))
    highest, position = unroll_vmap(on_cpu(cpu_form, elsewhere=stock))(x, kernel)
    return highest, (x, kernel, position)


def _backward(bins, residuals, cotangent):
    x, kernel, position = residuals
    cpu_form, stock = (functools.partial(f, bins=bins) for f in (fused_first_conv.kernel_gradient, _stock_kernel_gradient))
    kernel_gradient = unroll_vmap(on_cpu(cpu_form, elsewhere=stock))(x, position, cotangent)
    # XLA drops the gradient of the spectrogram unless the caller uses it.
    output_gradient = _output_gradient(position, cotangent, bins, x.shape[2])
    return conv3x3.input_gradient(kernel, output_gradient)[..., 0], kernel_gradient.astype(kernel.dtype)


conv_and_pool.defvjp(_forward, _backward)
