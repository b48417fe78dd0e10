"""The 3x3 convolution of the network, and what it does when several networks run at once.

Under `jax.vmap` over the kernels a stock convolution becomes one grouped convolution, which CPUs and cuDNN run many times
slower than the convolutions it stands for. Here they stay apart: one stock convolution a network, in the value and in both
gradients. The gradient with respect to the input is written as the convolution that it is, and that with respect to the kernel
as matrix products where those are faster.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.custom_batching import custom_vmap


def _stock(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _apart(function):
    """Under vmap: called once for each entry of the mapped axis."""

    @custom_vmap
    def called(x, other):
        return function(x, other)

    @called.def_vmap
    def rule(size, mapped, x, other):
        results = [called(x[i] if mapped[0] else x, other[i] if mapped[1] else other) for i in range(size)]
        return jnp.stack(results), True

    return called


_value = _apart(_stock)


def _stock_kernel_gradient(x, cotangent):
    kernel = jax.ShapeDtypeStruct((3, 3, x.shape[-1], cotangent.shape[-1]), x.dtype)
    (gradient,) = jax.linear_transpose(lambda kernel: _stock(x, kernel), kernel)(cotangent)
    return gradient


def _kernel_gradient_of_products(x, cotangent):
    """The same as one matrix product for each of the nine taps, or, where there are few inputs, for all of them at once."""
    clips, frames, bins, inputs = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = [
        jax.lax.slice(padded, (0, t, f, 0), (clips, t + frames, f + bins, inputs)).reshape(-1, inputs)
        for t in range(3)
        for f in range(3)
    ]
    if 9 * inputs <= cotangent.shape[-1]:
        taps = [jnp.concatenate(taps, axis=1)]
    cotangent = cotangent.reshape(-1, cotangent.shape[-1])
    return jnp.stack([tap.T @ cotangent for tap in taps]).reshape(3, 3, inputs, -1)


@_apart
def _kernel_gradient(x, cotangent):
    # XLA's own takes several times as long as the value on CPUs.
    return jax.lax.platform_dependent(x, cotangent, cpu=_kernel_gradient_of_products, default=_stock_kernel_gradient)


@jax.custom_vjp
def conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Cross-correlates with zero padding: [shape=(B, T, F, I)], [shape=(3, 3, I, O)] -> [shape=(B, T, F, O)]."""
    return _value(x, kernel)


def _forward(x, kernel):
    return _value(x, kernel), (x, kernel)


def _backward(saved, cotangent):
    x, kernel = saved
    turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    return _value(cotangent, turned), _kernel_gradient(x, cotangent)


conv3x3.defvjp(_forward, _backward)


class Conv3x3(nnx.Module):
    """`conv3x3` with a kernel of its own, He-normal at first, and no bias."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(nnx.initializers.he_normal()(rngs.params(), (3, 3, inputs, outputs), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[shape=(B, T, F, inputs)] -> [shape=(B, T, F, outputs)]."""
        return conv3x3(x, self.kernel[...].astype(x.dtype))
