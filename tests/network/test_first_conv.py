"""The first convolution against separate steps: a convolution, sums over its output, a maximum over windows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfl_jax.frame_mask import frame_mask
from mfl_jax.network import first_conv
from support.gradients import assert_near, value_and_gradients

pytestmark = pytest.mark.lightly_optimised

CLIPS, FRAMES, CHANNELS = 3, 7, 5


def arrays(mel_bins, bins, seed=0):
    rng = np.random.default_rng(seed)
    shapes = (CLIPS, FRAMES, mel_bins), (3, 3, 1, CHANNELS), (CLIPS, FRAMES, mel_bins // bins, CHANNELS)
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]


def convolution_output(x, kernel):
    return jax.lax.conv_general_dilated(
        x[..., None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
    )  # fmt: skip


def separate_steps(x, kernel, bins):
    output = convolution_output(x, kernel)[:, :, : x.shape[2] // bins * bins]
    return output.reshape(*x.shape[:2], -1, bins, CHANNELS).max(3)


@pytest.mark.parametrize(("mel_bins", "bins"), [(16, 8), (19, 8), (9, 3), (4, 1), (5, 5)])
def test_equals_the_separate_steps(mel_bins, bins, form):
    parts = arrays(mel_bins, bins)
    results = value_and_gradients(lambda x, kernel: first_conv.conv_and_pool(x, kernel, bins), *parts)
    assert_near(results, value_and_gradients(lambda x, kernel: separate_steps(x, kernel, bins), *parts))


def test_bfloat16_rounds_the_result_alone(form):
    exact = [array.astype(jnp.bfloat16) for array in arrays(16, 8)]
    results = value_and_gradients(lambda x, kernel: first_conv.conv_and_pool(x, kernel, 8), *exact)
    expected = value_and_gradients(
        lambda x, kernel: separate_steps(x, kernel, 8), *(array.astype(jnp.float32) for array in exact)
    )
    for ours, theirs in zip(results, expected, strict=True):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=0.01 * np.abs(theirs).max())


def test_several_networks_at_once_equal_each_alone(form):
    parts = [jnp.stack(pair) for pair in zip(arrays(16, 8), arrays(16, 8, seed=1), strict=True)]
    function = functools.partial(value_and_gradients, lambda x, kernel: first_conv.conv_and_pool(x, kernel, 8))
    results = jax.jit(jax.vmap(function))(*parts)
    for network in range(2):
        assert_near([array[network] for array in results], function(*(part[network] for part in parts)))


def test_the_lowest_bin_of_equal_maxima_gets_the_gradient(form):
    x, kernel = jnp.ones((1, 3, 10)), jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1.0)
    gradient = jax.grad(lambda x: first_conv.conv_and_pool(x, kernel, 4).sum())(x)
    np.testing.assert_allclose(gradient, np.tile([1.0, 0, 0, 0, 1, 0, 0, 0, 0, 0], (1, 3, 1)))


@pytest.mark.parametrize("valid_frames", [(7, 7, 7), (7, 0, 3), (0, 0, 0)], ids=str)
def test_sums_equal_those_of_the_output_at_valid_frames(valid_frames):
    x, kernel, _ = arrays(16, 8)
    mask = frame_mask(np.array(valid_frames), FRAMES)
    x = x * mask[..., None]

    def sums_of_output(kernel):
        output = convolution_output(x, kernel)[mask]
        return jnp.float32(output.size / CHANNELS), output.sum((0, 1)), jnp.square(output).sum((0, 1))

    def sums_of_taps(kernel):
        return first_conv.channel_sums(x, kernel, mask)

    for ours, theirs in zip(sums_of_taps(kernel), sums_of_output(kernel), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)
    jacobians = (jax.jacobian(lambda kernel, f=f: f(kernel)[1:])(kernel) for f in (sums_of_taps, sums_of_output))
    for ours, theirs in zip(*jacobians, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_variance_of_a_kernel_that_subtracts_neighbouring_values():
    """The sums are then small differences of products of large numbers."""
    rng = np.random.default_rng(0)
    x = np.cumsum(0.05 * rng.standard_normal((2, 500, 64)), axis=1).astype(np.float32)
    x = (x - x.mean()) / x.std()
    kernel = np.zeros((3, 3, 1, 1), np.float32)
    kernel[0, 1], kernel[2, 1] = -1, 1
    count, total, squares = first_conv.channel_sums(jnp.asarray(x), jnp.asarray(kernel), np.ones((2, 500), bool))
    exact = np.pad(x, ((0, 0), (1, 1), (0, 0))).astype(np.float64)
    exact = exact[:, 2:] - exact[:, :-2]
    assert exact.var() < 0.05
    np.testing.assert_allclose(squares / count - (total / count) ** 2, exact.var(), rtol=1e-4)


def test_the_output_of_the_convolution_is_never_stored():
    x, kernel = jnp.ones((4, 100, 64)), jnp.ones((3, 3, 1, 32))
    compiled = jax.jit(lambda x, kernel: first_conv.conv_and_pool(x, kernel, 8)).lower(x, kernel).compile()
    output_bytes = 4 * 4 * 100 * 64 * 32
    assert compiled.memory_analysis().temp_size_in_bytes < 0.5 * output_bytes
