"""The convolution against jax's own: values and gradients, alone and for several networks at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfl_jax.network.conv3x3 import conv3x3
from support.gradients import assert_equal, value_and_gradients

RUNS = 3


def stock(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def arrays(*shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]


@pytest.mark.parametrize("size", [(2, 7, 5, 3, 4), (1, 1, 1, 1, 2), (3, 20, 2, 4, 4), (2, 9, 8, 1, 12)], ids=str)
def test_equals_the_stock_convolution(size):
    batch, frames, bins, inputs, outputs = size
    parts = arrays((batch, frames, bins, inputs), (3, 3, inputs, outputs), (batch, frames, bins, outputs))
    assert_equal(value_and_gradients(conv3x3, *parts), value_and_gradients(stock, *parts))


@pytest.mark.parametrize("shared", [None, "x", "kernel"])
def test_several_networks_at_once_are_as_many_alone(shared):
    x, kernel, weights = arrays((RUNS, 2, 6, 4, 3), (RUNS, 3, 3, 3, 5), (RUNS, 2, 6, 4, 5))
    axes = {None: (0, 0, 0), "x": (None, 0, 0), "kernel": (0, None, 0)}[shared]
    x, kernel = (x[0] if shared == "x" else x), (kernel[0] if shared == "kernel" else kernel)
    got = jax.jit(jax.vmap(lambda *parts: value_and_gradients(conv3x3, *parts), axes))(x, kernel, weights)
    for run in range(RUNS):
        parts = [array if axis is None else array[run] for array, axis in zip((x, kernel, weights), axes, strict=True)]
        assert_equal([array[run] for array in got], value_and_gradients(stock, *parts))


def test_several_networks_compile_to_no_grouped_convolution():
    x, kernel = arrays((RUNS, 2, 6, 4, 3), (RUNS, 3, 3, 3, 5))
    text = jax.jit(jax.vmap(conv3x3)).lower(x, kernel).as_text()
    assert text.count("stablehlo.convolution") == RUNS and f"feature_group_count = {RUNS}" not in text
    assert f"feature_group_count = {RUNS}" in jax.jit(jax.vmap(stock)).lower(x, kernel).as_text()


def test_only_cpus_take_another_way_than_the_stock_convolution():
    parts = arrays((2, 8, 4, 32), (3, 3, 32, 32), (2, 8, 4, 32))
    traced = jax.jit(lambda *parts: value_and_gradients(conv3x3, *parts)).trace(*parts)
    for platform, over_frames_and_bins in {"cpu": 0, "cuda": 3, "tpu": 3}.items():
        lines = traced.lower(lowering_platforms=(platform,)).as_text().splitlines()
        assert sum("stablehlo.convolution" in line and ", 0, 1, " in line for line in lines) == over_frames_and_bins, platform
