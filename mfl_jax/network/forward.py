"""From a batch of log-mel spectrograms to the logits of the network."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from mfl_jax.frame_mask import frame_mask

CLIPS_AT_ONCE = 4
"""Clips that a CPU takes through the network together where they do not depend on each other."""


def normalise(log_mel: jax.Array, valid_frames: jax.Array, feature_stats) -> jax.Array:
    """Brings each mel bin to mean 0 and deviation 1 over the training split; padded frames become 0, the mean."""
    normal = (log_mel - feature_stats["mean"]) / feature_stats["std"]
    valid = frame_mask(valid_frames, log_mel.shape[1])
    return jnp.where(valid[..., None], normal, 0.0)


def apply_network(params, batch_stats, feature_stats, batch, *, graphdef, train, axis_name=None, dropout_key=None):
    """Runs the network on a batch; returns its two logits and the batch statistics after it."""
    network = nnx.merge(graphdef, params, batch_stats, copy=True)
    logits = network(
        normalise(batch["log_mel"], batch["valid_frames"], feature_stats),
        clip_mask=batch["clip_mask"], train=train, axis_name=axis_name, dropout_key=dropout_key,
    )  # fmt: skip
    return logits, nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))


def infer(params, batch_stats, feature_stats, batch, *, graphdef) -> tuple[jax.Array | None, jax.Array | None]:
    """The two logits of a batch, computed with the running batch statistics, clip by clip where that is faster."""

    def whole(batch):
        return apply_network(params, batch_stats, feature_stats, batch, graphdef=graphdef, train=False)[0]

    return in_small_batches(whole, batch)


def in_small_batches(function: Callable, batch: dict):
    """Calls a function of `log_mel`, `valid_frames` and `clip_mask` for which clips do not depend on each other.

    A CPU takes a few clips at a time through all layers, so that what lies between two layers stays in its cache.
    """

    def in_pieces(batch):
        clips = len(batch["clip_mask"])
        pieces = -(-clips // CLIPS_AT_ONCE)
        size = -(-clips // pieces)
        filled = jax.tree.map(lambda a: jnp.pad(a, [(0, pieces * size - clips)] + [(0, 0)] * (a.ndim - 1)), batch)
        results = jax.lax.map(function, jax.tree.map(lambda a: a.reshape(pieces, size, *a.shape[1:]), filled))
        return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:clips], results)

    # What else a batch holds is no business of the network's.
    seen = {key: jnp.asarray(batch[key]) for key in ("log_mel", "valid_frames", "clip_mask")}
    return jax.lax.platform_dependent(seen, cpu=in_pieces, default=function)
