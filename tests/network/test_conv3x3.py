"""The convolution against XLA's: values and gradients, for one network and for several at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfl_jax.network.conv3x3 import conv3x3, stock_convolution
from support.gradients import assert_near, value_and_gradients

NETWORKS = 3


def arrays(*shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]


@pytest.mark.parametrize("size", [(2, 7, 5, 3, 4), (1, 1, 1, 1, 2), (3, 20, 2, 4, 4), (2, 9, 8, 1, 12)], ids=str)
def test_equals_the_stock_convolution(size):
    batch, frames, bins, inputs, outputs = size
    parts = arrays((batch, frames, bins, inputs), (3, 3, inputs, outputs), (batch, frames, bins, outputs))
    assert_near(value_and_gradients(conv3x3, *parts), value_and_gradients(stock_convolution, *parts))


@pytest.mark.parametrize("shared", [None, "x", "kernel"])
def test_several_networks_at_once_equal_each_alone(shared):
    x, kernel, weights = arrays((NETWORKS, 2, 6, 4, 3), (NETWORKS, 3, 3, 3, 5), (NETWORKS, 2, 6, 4, 5))
    axes = {None: (0, 0, 0), "x": (None, 0, 0), "kernel": (0, None, 0)}[shared]
    x, kernel = (x[0] if shared == "x" else x), (kernel[0] if shared == "kernel" else kernel)
    results = jax.jit(jax.vmap(lambda *parts: value_and_gradients(conv3x3, *parts), axes))(x, kernel, weights)
    for network in range(NETWORKS):
        parts = [array if axis is None else array[network] for array, axis in zip((x, kernel, weights), axes, strict=True)]
        assert_near([array[network] for array in results], value_and_gradients(stock_convolution, *parts))


def test_several_networks_compile_without_a_grouped_convolution():
    x, kernel = arrays((NETWORKS, 2, 6, 4, 3), (NETWORKS, 3, 3, 3, 5))
    text = jax.jit(jax.vmap(conv3x3)).lower(x, kernel).as_text()
    assert text.count("stablehlo.convolution") == NETWORKS and f"feature_group_count = {NETWORKS}" not in text
    assert f"feature_group_count = {NETWORKS}" in jax.jit(jax.vmap(stock_convolution)).lower(x, kernel).as_text()


def count_stock_convolutions(platform, channels, dtype):
    """Convolutions over frames and bins in the program of value and gradients."""
    parts = [array.astype(dtype) for array in arrays((2, 8, 4, channels), (3, 3, channels, 40), (2, 8, 4, 40))]
    traced = jax.jit(lambda *parts: value_and_gradients(conv3x3, *parts)).trace(*parts)
    lines = traced.lower(lowering_platforms=(platform,)).as_text().splitlines()
    return sum("stablehlo.convolution" in line and ", 0, 1, " in line for line in lines)


@pytest.mark.parametrize(("platform", "expected"), [("cpu", 0), ("cuda", 3), ("tpu", 3)])
def test_only_cpus_replace_the_stock_convolution(platform, expected):
    assert count_stock_convolutions(platform, 32, jnp.float32) == expected


@pytest.mark.parametrize(("channels", "dtype"), [(31, jnp.float32), (32, jnp.bfloat16)])
def test_cpus_keep_the_stock_convolution_for_few_channels_and_bfloat16(channels, dtype):
    assert count_stock_convolutions("cpu", channels, dtype) == 3
