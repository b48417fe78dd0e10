"""Dropout against the same layer without it, and in the network with different keys."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx

from mfl_jax.network.joint_network import ConvBlock
from support.networks import ODD, all_valid, functional, noise, small_network

pytestmark = pytest.mark.lightly_optimised


def dropout_block(dropout):
    build = functools.partial(ConvBlock, 2, 40, (1, 2), slope=0.1, dropout=dropout)
    apply, params, batch_stats = functional(lambda: build(rngs=nnx.Rngs(params=0)))

    x = noise(4, 10, 6, 2)

    def run(**options):
        return apply(params, batch_stats, x, all_valid(x), axis_name=None, **options)[0]

    return run


def test_dropout_of_zero_is_the_identity():
    run = dropout_block(0.0)
    np.testing.assert_allclose(run(train=True, dropout_key=jax.random.key(0)), run(train=True), rtol=1e-6, atol=1e-6)


def test_dropout_acts_only_in_training():
    key = jax.random.key(0)
    dropping, plain = dropout_block(0.3), dropout_block(0.0)
    np.testing.assert_allclose(dropping(train=False, dropout_key=key), plain(train=False), rtol=1e-6, atol=1e-6)
    assert np.abs(dropping(train=True, dropout_key=key) - plain(train=True)).max() > 0.1


def test_dropout_zeroes_its_share_and_keeps_the_mean():
    kept = np.asarray(dropout_block(0.0)(train=True))
    dropped = np.asarray(dropout_block(0.3)(train=True, dropout_key=jax.random.key(1)))
    assert np.all(kept != 0)
    zero = dropped == 0
    # With 4,800 values, the standard deviation of the share is 0.0066.
    assert zero.size == 4800
    assert abs(zero.mean() - 0.3) < 0.03
    np.testing.assert_allclose(dropped[~zero], kept[~zero] / 0.7, rtol=1e-6)
    assert abs(dropped.mean() - kept.mean()) < 0.1 * np.abs(kept).mean()


def test_dropout_in_training_needs_a_key():
    with pytest.raises(TypeError, match="key"):
        dropout_block(0.3)(train=True)


def test_dropout_of_the_network_follows_its_key():
    apply, params, batch_stats = functional(small_network(ODD, dropout=0.3))

    def logits(key, train):
        x = noise(2, ODD["frames"], ODD["mel_bins"])
        return apply(params, batch_stats, x, train=train, key=key)[0]

    keys = jax.random.split(jax.random.key(0), 2)
    for head in range(2):
        first, again, other = (logits(key, True)[head] for key in (keys[0], keys[0], keys[1]))
        np.testing.assert_array_equal(first, again)
        assert np.any(first != other)
        np.testing.assert_array_equal(logits(keys[0], False)[head], logits(keys[1], False)[head])
