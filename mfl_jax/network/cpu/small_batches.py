"""Inference with a few clips at a time, so that the arrays between two layers stay in a CPU's cache."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

CLIPS_AT_ONCE = 4


def map_small_batches(function: Callable[[dict], Any], batch: Mapping[str, jax.Array]) -> Any:
    """Applies a function to a batch, `CLIPS_AT_ONCE` clips or fewer at a time.

    Args:
      function: computes a pytree of arrays [shape=(B, ...)] from a batch, each clip independently of the others.
      batch: arrays [shape=(B, ...)].

    Returns:
      What `function` returns for the whole batch.
    """
    clips = len(batch["clip_mask"])
    pieces = -(-clips // CLIPS_AT_ONCE)
    size = -(-clips // pieces)
    padded = jax.tree.map(lambda a: jnp.pad(a, [(0, pieces * size - clips)] + [(0, 0)] * (a.ndim - 1)), batch)
    results = jax.lax.map(function, jax.tree.map(lambda a: a.reshape(pieces, size, *a.shape[1:]), padded))
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:clips], results)
