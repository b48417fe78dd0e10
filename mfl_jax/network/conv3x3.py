"""The 3x3 convolution of the network: what it does when several networks run at once, and what suits CPUs.

Under `jax.vmap` over the kernels a stock convolution becomes one grouped convolution, which CPUs and cuDNN run many times
slower than the convolutions it stands for. Here they stay apart: one convolution a network, in the value and in both
gradients. The gradient with respect to the input is written as the convolution that it is. CPUs take the way of `winograd`
where it suits; other hardware has its own and keeps the stock convolution.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.custom_batching import custom_vmap

from mfl_jax.network.cpu import winograd


def _stock(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def stock_kernel_gradient(x, cotangent):
    """The gradient of the convolution of x with respect to its kernel, as XLA has it."""
    kernel = jax.ShapeDtypeStruct((3, 3, x.shape[-1], cotangent.shape[-1]), x.dtype)
    (gradient,) = jax.linear_transpose(lambda kernel: _stock(x, kernel), kernel)(cotangent)
    return gradient


def unroll_vmap(function: Callable) -> Callable:
    """Under vmap, a function of arrays is called once for each entry of the mapped axis."""

    @custom_vmap
    def called(*arrays):
        return function(*arrays)

    @called.def_vmap
    def rule(size, mapped, *arrays):
        results = [called(*(a[i] if own else a for a, own in zip(arrays, mapped, strict=True))) for i in range(size)]
        stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *results)
        return stacked, jax.tree.map(lambda _: True, stacked)

    return called


@unroll_vmap
def _value(x, kernel):
    # An exported program may not know how many clips it will be given; `winograd` cuts clips into pieces beforehand.
    if not isinstance(x.shape[0], int) or not winograd.suits(x, kernel.shape[-1]):
        return _stock(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cpu=winograd.convolve, default=_stock)


@unroll_vmap
def _kernel_gradient(x, cotangent):
    if not winograd.suits(x, cotangent.shape[-1]):
        return stock_kernel_gradient(x, cotangent)
    return jax.lax.platform_dependent(x, cotangent, cpu=winograd.kernel_gradient, default=stock_kernel_gradient)


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
