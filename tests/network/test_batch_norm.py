"""Batch norm against float64, and on two devices against one."""

import functools
import operator

import jax
import numpy as np
import pytest

from mfl_jax.frame_mask import frame_mask
from support.networks import Normalise, all_valid, assert_close, functional, noise

pytestmark = pytest.mark.lightly_optimised


def test_batch_norm_is_accurate_for_a_mean_of_thirty_deviations():
    # The variance is a difference of two means, so its rounding error grows with the square of this ratio. The largest ratio
    # seen in practice is that of the first layer on a silent batch.
    apply, params, batch_stats = functional(lambda: Normalise(3))
    x = noise(4, 50, 4, 3) + 30
    output, _ = apply(params, batch_stats, x, all_valid(x), train=True, axis_name=None)
    x = np.float64(x)
    expected = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5) * params["scale"] + params["bias"]
    assert_close(output, expected, 1e-3)


@pytest.mark.parametrize(
    "valid_frames",
    [[[5, 5], [5, 5]], [[5, 2], [3, 0]], [[5, 0], [0, 0]]],
    ids=["no padding", "unequal", "one device with padding only"],
)
def test_batch_norm_over_two_devices_equals_one(valid_frames):
    """Values, running statistics and gradients. Averaging the devices' means would be wrong for unequal masks."""
    mask = frame_mask(np.array(valid_frames), 5)
    apply, params, batch_stats = functional(lambda: Normalise(3))
    # The clips of the two devices differ strongly.
    x = noise(2, 2, 5, 2, 3) + np.float32([0, 3]).reshape(2, 1, 1, 1, 1)
    weights = noise(*x.shape, seed=1) * mask[..., None, None]

    def value_and_gradients(params, x, mask, weights, axis_name):
        def value(params, x):
            return apply(params, batch_stats, x, mask, train=True, axis_name=axis_name)

        output, gradients_of, new_stats = jax.vjp(value, params, x, has_aux=True)
        gradients, gradient_of_x = gradients_of(weights)
        return output, new_stats, gradients, gradient_of_x

    merged = [array.reshape(4, *array.shape[2:]) for array in (x, mask, weights)]
    output, new_stats, gradients, gradient_of_x = value_and_gradients(params, *merged, None)
    on_devices = jax.pmap(
        functools.partial(value_and_gradients, axis_name="device"), "device", in_axes=(None, 0, 0, 0), devices=jax.devices()[:2]
    )
    outputs, stats, parts, gradients_of_x = on_devices(params, x, mask, weights)

    assert_close(outputs[mask], output.reshape(x.shape)[mask], 1e-5, "value")
    for device in range(2):
        assert_close(jax.tree.map(operator.itemgetter(device), stats), new_stats, 1e-5, "statistics")
    assert_close(jax.tree.map(lambda leaf: leaf.sum(0), parts), gradients, 1e-5, "gradient of ")
    assert_close(gradients_of_x, np.reshape(gradient_of_x, x.shape), 1e-5, "gradient of the input")


def test_only_valid_frames_count():
    """Against the mean and variance of the valid values, with clips of different lengths."""
    apply, params, batch_stats = functional(lambda: Normalise(3))
    mask = frame_mask(np.array([7, 0, 4, 1]), 7)
    x = noise(4, 7, 2, 3) + 500 * ~mask[..., None, None]
    output, new_stats = apply(params, batch_stats, x, mask, train=True, axis_name=None)
    valid = np.float64(x[mask]).reshape(-1, 3)
    expected = (valid - valid.mean(0)) / np.sqrt(valid.var(0) + 1e-5) * params["scale"] + params["bias"]
    assert_close(output[mask].reshape(-1, 3), expected, 1e-5)
    assert_close(new_stats["mean"], 0.9 * batch_stats["mean"] + 0.1 * valid.mean(0), 1e-5)
    assert_close(new_stats["var"], 0.9 * batch_stats["var"] + 0.1 * valid.var(0, ddof=1), 1e-5)
