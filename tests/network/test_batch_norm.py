"""Batch norm against float64, with padded clips against without, and on two devices against one."""

import functools
import operator

import jax
import numpy as np
import pytest

from support.networks import ODD, Normalise, assert_close, everyone, functional, noise, small_network

pytestmark = pytest.mark.lightly_optimised


def test_batch_norm_is_accurate_for_a_mean_of_thirty_deviations():
    # The variance is a difference of two means, so its rounding error grows with the square of this ratio. The largest ratio
    # seen in practice is that of the first layer on a silent batch.
    apply, params, batch_stats = functional(lambda: Normalise(3))
    x = noise(4, 50, 4, 3) + 30
    output, _ = apply(params, batch_stats, x, everyone(4), train=True, axis_name=None)
    x = np.float64(x)
    expected = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5) * params["scale"] + params["bias"]
    assert_close(output, expected, 1e-3)


def padded_with_garbage(x, mask):
    """The clips of `x` where the mask is True, and large noise elsewhere."""
    padded = 1e3 * noise(len(mask), *x.shape[1:], seed=9) + 500
    padded[mask] = x
    return padded


def value_statistics_and_gradients(apply, params, batch_stats, x, mask):
    """Of a layer or network in training; the gradients are of a fixed weighted sum of the valid clips' results."""

    def results(params, x):
        results, new_stats = apply(params, batch_stats, x, clip_mask=mask, train=True, axis_name=None)
        return jax.tree.map(lambda result: result[np.flatnonzero(mask)], results), new_stats

    results, gradients_of, new_stats = jax.vjp(results, params, x, has_aux=True)
    weights = jax.tree.map(lambda result: noise(*result.shape, seed=5), results)
    gradients, gradient_of_x = gradients_of(weights)
    return results, new_stats, gradients, np.asarray(gradient_of_x)


@functools.cache
def layer_and_shape(part):
    """A layer or network with the shape of its input; cached, so that cases of the same size share compiled programs."""
    if part == "batch norm":
        return functional(lambda: Normalise(3)), (5, 2, 3)
    return functional(small_network(ODD)), (ODD["frames"], ODD["mel_bins"])


@pytest.mark.parametrize("mask", [[True, False, True, True, False], [False, True, True, False, True]], ids=str)
@pytest.mark.parametrize("part", ["batch norm", "network"])
def test_padded_clips_change_nothing(part, mask):
    ours, shape = layer_and_shape(part)
    mask = np.array(mask)
    x = noise(3, *shape)
    *alone, gradient_of_x = value_statistics_and_gradients(*ours, x, everyone(3))
    *padded, gradient_of_padded = value_statistics_and_gradients(*ours, padded_with_garbage(x, mask), mask)
    assert_close(padded, alone, 2e-4)
    assert_close(gradient_of_padded[mask], gradient_of_x, 2e-4)
    assert not gradient_of_padded[~mask].any()


def test_padding_would_show_without_the_mask():
    # The test above can fail.
    x = noise(3, 5, 2, 3)
    mask = np.array([True, False, True, True])
    ours = functional(lambda: Normalise(3))
    alone, *_ = value_statistics_and_gradients(*ours, x, everyone(3))
    unmasked, *_ = value_statistics_and_gradients(*ours, padded_with_garbage(x, mask), everyone(4))
    assert np.abs(unmasked[mask] - alone).max() > 0.5


def test_without_a_mask_all_clips_count():
    # Only the convolution blocks use the mask; the event head has none.
    apply, params, batch_stats = functional(small_network(ODD, tasks=("scene",)))
    x = noise(2, ODD["frames"], ODD["mel_bins"])
    results = [apply(params, batch_stats, x, clip_mask=mask, train=True) for mask in (None, everyone(2))]
    assert_close(*results, 1e-5)


@pytest.mark.parametrize(
    "mask",
    [[[True, True], [True, True]], [[True, True], [True, False]], [[True, False], [False, False]]],
    ids=["no padding", "unequal", "one device with padding only"],
)
def test_batch_norm_over_two_devices_equals_one(mask):
    """Values, running statistics and gradients. Averaging the devices' means would be wrong for unequal masks."""
    mask = np.array(mask)
    apply, params, batch_stats = functional(lambda: Normalise(3))
    # The clips of the two devices differ strongly.
    x = noise(2, 2, 5, 2, 3) + np.float32([0, 3]).reshape(2, 1, 1, 1, 1)
    weights = noise(*x.shape, seed=1) * mask[..., None, None, None]

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
