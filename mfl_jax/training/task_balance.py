"""Other ways to balance the two tasks, to compare the multi-focal loss with.

`fixed` takes alpha and beta as they are; it is what the paper's systems do, the multi-focal ones included. The others multiply
alpha and beta by weights of their own.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

BALANCES = ("fixed", "uncertainty", "dwa")
TEMPERATURE = 2.0
"""Of the dynamic weight average; the value of its paper."""
LOG_VARIANCES = "log_variances"
"""Key of uncertainty weighting's parameters, which a run trains and stores together with the network's."""


def select_network_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a run's parameters without those that belong to the loss."""
    return {name: value for name, value in params.items() if name != LOG_VARIANCES}


def initial_log_variances(tasks: Sequence[str]) -> dict[str, jax.Array]:
    """Uncertainty weighting learns one log variance a task, and starts from the variance 1."""
    return {task: jnp.zeros((), jnp.float32) for task in tasks}


def uncertainty_weights(log_variances: Mapping[str, jax.Array]) -> tuple[dict[str, jax.Array], jax.Array]:
    """Uncertainty weighting for classification (Kendall, Gal and Cipolla, CVPR 2018): sum of L_k / sigma_k^2 + log sigma_k.

    Args:
      log_variances: s_k = log sigma_k^2, a scalar a task.

    Returns:
      The weights exp(-s_k), and what is added to the weighted loss: the sum of s_k / 2.
    """
    weights = {task: jnp.exp(-log_variance) for task, log_variance in log_variances.items()}
    return weights, sum(log_variances.values()) / 2


def dynamic_weight_average(losses: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The weights of an epoch by dynamic weight average (Liu, Johns and Davison, CVPR 2019), from the losses before it.

    With K tasks and r_k the ratio of the last epoch's loss to that of the epoch before, w_k = K softmax(r / T)_k: a task whose
    loss falls slowly weighs more. The first two epochs have weight 1 on each task.

    Args:
      losses: the mean training loss of each task in every epoch so far.
    """
    tasks = list(losses[-1]) if losses else []
    if len(losses) < 2:
        return dict.fromkeys(tasks, 1.0)
    ratios = {task: losses[-1][task] / losses[-2][task] if losses[-2][task] > 0 else 1.0 for task in tasks}
    highest = max(ratios.values())
    powers = {task: math.exp((ratio - highest) / TEMPERATURE) for task, ratio in ratios.items()}
    return {task: len(tasks) * power / sum(powers.values()) for task, power in powers.items()}


def epoch_scalars(balance: str, scalars: Mapping, records: Sequence[Mapping]) -> dict:
    """The scalars of a step in the epoch that follows `records`.

    Args:
      balance: of `BALANCES`. scalars: as `step.train_step` takes them. records: the lines of metrics.jsonl so far.
    """
    if balance != "dwa":
        return dict(scalars)
    weights = dynamic_weight_average([{task: r["train"][task]["loss"] for task in ("scene", "event")} for r in records])
    return {
        **scalars,
        "alpha": np.float32(scalars["alpha"] * weights.get("scene", 1.0)),
        "beta": np.float32(scalars["beta"] * weights.get("event", 1.0)),
    }


def current_weights(balance: str, scalars: Mapping, log_variances: Mapping | None) -> dict[str, float]:
    """The weights that scene and event loss had at the end of an epoch, for its record; nothing where they never change."""
    if balance == "fixed":
        return {}
    factor = {task: float(np.exp(-np.asarray(value))) for task, value in (log_variances or {}).items()}
    return {
        "scene": float(scalars["alpha"]) * factor.get("scene", 1.0),
        "event": float(scalars["beta"]) * factor.get("event", 1.0),
    }
