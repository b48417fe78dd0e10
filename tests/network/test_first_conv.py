"""The first convolution against the plain way: a convolution, sums over its output, a maximum over windows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfl_jax.network import first_conv
from support.gradients import assert_equal, value_and_gradients

CLIPS, FRAMES, CHANNELS = 3, 7, 5


def arrays(mel_bins, bins, seed=0):
    rng = np.random.default_rng(seed)
    shapes = (CLIPS, FRAMES, mel_bins), (3, 3, 1, CHANNELS), (CLIPS, FRAMES, mel_bins // bins, CHANNELS)
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]


def plain_output(x, kernel):
    return jax.lax.conv_general_dilated(
        x[..., None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
    )  # fmt: skip


def plain(x, kernel, bins):
    output = plain_output(x, kernel)[:, :, : x.shape[2] // bins * bins]
    return output.reshape(*x.shape[:2], -1, bins, CHANNELS).max(3)


@pytest.fixture(params=["cpu", "other hardware"])
def hardware(request, monkeypatch):
    """Runs what other hardware would, too."""
    if request.param != "cpu":
        monkeypatch.setattr(first_conv, "_cpu_forward", first_conv._stock_forward)
        monkeypatch.setattr(first_conv, "_cpu_kernel_gradient", first_conv._stock_kernel_gradient)


@pytest.mark.parametrize(("mel_bins", "bins"), [(16, 8), (19, 8), (9, 3), (4, 1), (5, 5)])
def test_equals_the_plain_way(mel_bins, bins, hardware):
    parts = arrays(mel_bins, bins)
    got = value_and_gradients(lambda x, kernel: first_conv.highest_of_windows(x, kernel, bins), *parts)
    assert_equal(got, value_and_gradients(lambda x, kernel: plain(x, kernel, bins), *parts))


def test_several_networks_at_once_are_as_many_alone(hardware):
    parts = [jnp.stack(pair) for pair in zip(arrays(16, 8), arrays(16, 8, seed=1), strict=True)]
    function = functools.partial(value_and_gradients, lambda x, kernel: first_conv.highest_of_windows(x, kernel, 8))
    got = jax.jit(jax.vmap(function))(*parts)
    for run in range(2):
        assert_equal([array[run] for array in got], function(*(part[run] for part in parts)))


def test_of_several_highest_the_lowest_bin_gets_the_gradient(hardware):
    x, kernel = jnp.ones((1, 3, 10)), jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1.0)
    gradient = jax.grad(lambda x: first_conv.highest_of_windows(x, kernel, 4).sum())(x)
    np.testing.assert_array_equal(gradient, np.tile([1.0, 0, 0, 0, 1, 0, 0, 0, 0, 0], (1, 3, 1)))


@pytest.mark.parametrize("mask", [(True, True, True), (True, False, True), (False, False, False)], ids=str)
def test_sums_are_those_of_the_output(mask):
    x, kernel, _ = arrays(16, 8)
    mask = np.array(mask)

    def of_output(kernel):
        output = plain_output(x, kernel)[mask]
        return jnp.float32(output.size / CHANNELS), output.sum((0, 1, 2)), jnp.square(output).sum((0, 1, 2))

    def of_taps(kernel):
        return first_conv.channel_sums(x, kernel, mask)

    for ours, theirs in zip(of_taps(kernel), of_output(kernel), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)
    ours, theirs = (jax.jacobian(lambda kernel, f=f: f(kernel)[1:])(kernel) for f in (of_taps, of_output))
    for own, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-4)


def test_variance_of_a_kernel_that_sees_differences_of_near_values_alone():
    """The sums are products of large numbers then, and the variance what is left of them."""
    rng = np.random.default_rng(0)
    x = np.cumsum(0.05 * rng.standard_normal((2, 500, 64)), axis=1).astype(np.float32)  # neighbours differ by little
    x = (x - x.mean()) / x.std()
    kernel = np.zeros((3, 3, 1, 1), np.float32)
    kernel[0, 1], kernel[2, 1] = -1, 1
    count, total, squares = first_conv.channel_sums(jnp.asarray(x), jnp.asarray(kernel), np.ones(2, bool))
    exact = np.pad(x, ((0, 0), (1, 1), (0, 0))).astype(np.float64)
    exact = exact[:, 2:] - exact[:, :-2]
    assert exact.var() < 0.05
    np.testing.assert_allclose(squares / count - (total / count) ** 2, exact.var(), rtol=1e-4)


def test_a_cpu_never_writes_the_output_itself():
    x, kernel = jnp.ones((4, 100, 64)), jnp.ones((3, 3, 1, 32))
    compiled = jax.jit(lambda x, kernel: first_conv.highest_of_windows(x, kernel, 8)).lower(x, kernel).compile()
    output_bytes = 4 * 4 * 100 * 64 * 32
    assert compiled.memory_analysis().temp_size_in_bytes < 0.5 * output_bytes
