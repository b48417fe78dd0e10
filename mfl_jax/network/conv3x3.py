"""The network's 3x3 convolution, with its gradients.

The gradient with respect to the input is written as a convolution, so that it too can take another form on CPUs. Under vmap
over several networks, each network keeps its own convolution (see `unroll_vmap`).
"""

import jax
import jax.numpy as jnp
from flax import nnx

from mfl_jax.network.cpu import on_cpu, winograd
from mfl_jax.network.unroll_vmap import unroll_vmap


def stock_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """XLA's convolution: [shape=(B, T, F, I)], [shape=(3, 3, I, O)] -> [shape=(B, T, F, O)]."""
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def stock_kernel_gradient(x: jax.Array, cotangent: jax.Array) -> jax.Array:
    """XLA's gradient of `stock_convolution` with respect to its kernel: [shape=(3, 3, I, O)]."""
    kernel = jax.ShapeDtypeStruct((3, 3, x.shape[-1], cotangent.shape[-1]), x.dtype)
    (gradient,) = jax.linear_transpose(lambda kernel: stock_convolution(x, kernel), kernel)(cotangent)
    return gradient


_convolve = unroll_vmap(on_cpu(winograd.convolve, elsewhere=stock_convolution, suits=winograd.suits))
_kernel_gradient = unroll_vmap(on_cpu(winograd.kernel_gradient, elsewhere=stock_kernel_gradient, suits=winograd.suits))


@jax.custom_vjp
def conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Cross-correlates with zero padding: [shape=(B, T, F, I)], [shape=(3, 3, I, O)] -> [shape=(B, T, F, O)]."""
    return _convolve(x, kernel)


def _forward(x, kernel):
    return _convolve(x, kernel), (x, kernel)


def _backward(residuals, cotangent):
    x, kernel = residuals
    return input_gradient(kernel, cotangent), _kernel_gradient(x, cotangent)


def input_gradient(kernel: jax.Array, cotangent: jax.Array) -> jax.Array:
    """The gradient of `conv3x3` with respect to its input: [shape=(B, T, F, I)]."""
    return _convolve(cotangent, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))


conv3x3.defvjp(_forward, _backward)


class Conv3x3(nnx.Module):
    """`conv3x3` with a He-normal initial kernel and no bias."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(nnx.initializers.he_normal()(rngs.params(), (3, 3, inputs, outputs), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[shape=(B, T, F, inputs)] -> [shape=(B, T, F, outputs)]."""
        with jax.named_scope("conv3x3"):  # profiles name the operations after it
            return conv3x3(x, self.kernel[...].astype(x.dtype))
