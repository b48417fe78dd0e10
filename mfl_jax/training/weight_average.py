"""The exponential moving average of parameters and batch statistics over the steps of training (`config.ema_decay`)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp


def start_average(params: Mapping, batch_stats: Mapping) -> dict[str, Any]:
    """Returns the average before the first step: copies, since a step donates its state."""
    return jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats})


def update_average(average: Mapping, params: Mapping, batch_stats: Mapping, decay: jax.Array, step: jax.Array) -> dict[str, Any]:
    """Returns the average after a step: d times the old one plus 1 - d times the new values, d = min(decay, (1 + n) / (10 + n)).

    So the random initial values have left the average after a few steps.

    Args:
      average: of the steps before; `params` and `batch_stats`.
      params, batch_stats: after the step.
      decay: `config.ema_decay`.
      step: n, the number of steps taken before.
    """
    kept = jnp.minimum(decay, (1 + step) / (10 + step))
    new = {"params": params, "batch_stats": batch_stats}
    return jax.tree.map(lambda old, value: kept * old + (1 - kept) * value, dict(average), new)
