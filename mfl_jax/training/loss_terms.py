"""Loss terms beyond the multi-focal loss, by name; the paper has none.

`config.loss_terms.NAME` is the weight of the term NAME. A term without a weight, or of weight 0, is not computed.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from mfl_jax.network.forward import Logits

LossTerm = Callable[[Logits, Mapping[str, jax.Array], jax.Array], tuple[jax.Array, jax.Array]]
"""`term(logits, batch, key)` returns a value per clip, float32 [shape=(B,)], and which clips have one, bool [shape=(B,)].

Its part of the loss is the weight times the mean over these clips of the global batch. Clips that only fill up a batch never
count. `logits` and `batch` are as in `steps.batch_sums`; `key` is random and differs between steps, devices and runs.
"""

TERMS: dict[str, LossTerm] = {}
"""Name -> term."""


def sum_terms(
    logits: Logits, batch: Mapping[str, jax.Array], weights: Mapping[str, jax.Array], key: jax.Array
) -> dict[str, dict[str, jax.Array]]:
    """Adds up the values of each weighted term: {name: {"total", "clips"}}, float32 scalars that add up over devices."""
    sums = {}
    for number, name in enumerate(sorted(weights)):
        values, counted = TERMS[name](logits, batch, jax.random.fold_in(key, number))
        counted &= batch["clip_mask"]
        sums[name] = {"total": jnp.sum(values, where=counted), "clips": jnp.sum(counted, dtype=jnp.float32)}
    return sums


def zero_sums(weights: Mapping[str, jax.Array]) -> dict[str, dict[str, jax.Array]]:
    """Builds the result of `sum_terms` for no clips."""
    return {name: {"total": jnp.float32(0), "clips": jnp.float32(0)} for name in weights}


def weigh_terms(
    sums: Mapping[str, Mapping[str, jax.Array]], weights: Mapping[str, jax.Array], clips: Mapping[str, jax.Array]
) -> jax.Array:
    """Computes this device's share of the weighted terms.

    Args:
      sums: of this device, from `sum_terms`.
      weights: of the terms.
      clips: `clips` of each term, of the global batch.
    """
    shares = [weights[name] * term["total"] / jnp.maximum(clips[name], 1.0) for name, term in sums.items()]
    return sum(shares, jnp.float32(0))
