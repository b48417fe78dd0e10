"""Memory of the first convolution on CPUs; its values and gradients are tested with `first_conv`."""

import jax
import jax.numpy as jnp

from mfl_jax.network import first_conv


def test_the_output_of_the_convolution_is_never_stored():
    x, kernel = jnp.ones((4, 100, 64)), jnp.ones((3, 3, 1, 32))
    compiled = jax.jit(lambda x, kernel: first_conv.conv_and_pool(x, kernel, 8)).lower(x, kernel).compile()
    output_bytes = 4 * 4 * 100 * 64 * 32
    assert compiled.memory_analysis().temp_size_in_bytes < 0.5 * output_bytes
