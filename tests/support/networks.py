"""Networks and layers as functions of random arrays, in JAX and in PyTorch; test inputs; a comparison of results."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mfl_jax.network.batch_norm import BatchNorm
from mfl_jax.network.joint_network import JointNetwork

PAPER = {"frames": 500, "mel_bins": 64, "scenes": 4, "events": 25}
SMALL = {"frames": 100, "mel_bins": 64, "scenes": 4, "events": 5, "channels": 8, "hidden": 6}
# Bins and frames that the pools do not divide, more scenes than channels, and another slope.
ODD = {"frames": 60, "mel_bins": 40, "scenes": 7, "events": 3, "channels": 5, "hidden": 4, "slope": 0.2}


def tensor(peer, array, **options):
    return peer.torch.tensor(np.asarray(array), dtype=peer.torch.float64, **options)


def split(network):
    graphdef, params, batch_stats = nnx.split(network, nnx.Param, nnx.BatchStat)
    return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)


def random_arrays(tree, rng):
    """Random arrays for a tree of shapes; initial zeros and ones would hide swapped biases, scales and statistics."""

    def fill(path, leaf):
        if leaf.ndim > 1:
            return jnp.asarray(rng.standard_normal(leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1])), jnp.float32)
        # A negative scale turns the largest value before batch norm into the smallest after it.
        sign = np.resize([1, -1], leaf.shape) if "scale" in jax.tree_util.keystr(path) else 1
        return jnp.asarray(sign * rng.uniform(0.5, 1.5, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(fill, tree)


def functional(build, seed=0):
    """Turns a module into a compiled function.

    Args:
      build: builds the module.
      seed: seed of the random arrays.

    Returns:
      `(params, batch_stats, *args, **options) -> (result, new batch_stats)`, and random params and batch_stats for it.
    """
    # Shapes only: the initial values take longer to compile than most tests.
    graphdef, params, batch_stats = split(nnx.eval_shape(build))
    rng = np.random.default_rng(seed)

    @functools.partial(jax.jit, static_argnames=("train", "axis_name"))
    def apply(params, batch_stats, *args, **options):
        module = nnx.merge(graphdef, params, batch_stats, copy=True)
        result = module(*args, **options)
        return result, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

    return apply, random_arrays(params, rng), random_arrays(batch_stats, rng)


def small_network(size, **options):
    return lambda: JointNetwork(**size, **options, rngs=nnx.Rngs(params=0))


def peer_network(peer, size, params, batch_stats):
    """PyTorch's network in float64 with our parameters and running statistics."""
    network = peer.Network(**{"channels": 128, **size}).double()
    return peer.copy_into(network, params, batch_stats)


class Normalise(BatchNorm):
    """Batch norm that applies its gain and shift."""

    def __call__(self, x, *args, **options):
        gain, shift = super().__call__(x, *args, **options)
        return x * gain + shift


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def all_valid(x):
    """The mask of clips [shape=(B, T, ...)] without padding."""
    return np.ones(x.shape[:2], bool)


def assert_close(ours, expected, tolerance, label=""):
    """Asserts that two trees are equal within `tolerance` times the largest absolute value of each leaf."""
    assert jax.tree.structure(ours) == jax.tree.structure(expected), label
    for (path, leaf), other in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(expected), strict=True):
        other = np.asarray(other)
        assert leaf.shape == other.shape, f"{label}{jax.tree_util.keystr(path)}"
        atol = tolerance * np.abs(other).max()
        np.testing.assert_allclose(leaf, other, rtol=0, atol=atol, err_msg=f"{label}{jax.tree_util.keystr(path)}")
