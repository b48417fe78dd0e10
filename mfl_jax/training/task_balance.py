"""Other ways to balance the two tasks, to compare with the multi-focal loss.

`fixed` uses alpha and beta as they are, like all systems of the paper, the multi-focal one included. `uncertainty` and `dwa`
multiply alpha and beta by weights that change during training.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

BALANCES = ("fixed", "uncertainty", "dwa")
TEMPERATURE = 2.0
"""Temperature of the dynamic weight average, from its paper."""
LOG_VARIANCES = "log_variances"
"""Key of uncertainty weighting's parameters, which a run trains and stores together with the network's."""


def select_network_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a run's parameters without those that belong to the loss."""
    return {name: value for name, value in params.items() if name != LOG_VARIANCES}


def initial_log_variances(tasks: Sequence[str]) -> dict[str, jax.Array]:
    """Returns the log variance of each task that uncertainty weighting starts from: 0, i.e. variance 1."""
    return {task: jnp.zeros((), jnp.float32) for task in tasks}


def rescale_updates(updates: Mapping[str, Any], factor: jax.Array) -> dict[str, Any]:
    """Multiplies the updates of the log variances, so that they have a learning rate of their own.

    RAdam moves a parameter by about the learning rate per step, whatever the size of its gradient. At the network's rate the log
    variances would not reach their optimum, log(2 L) for a loss of L, before training ends.
    """
    return {**updates, LOG_VARIANCES: jax.tree.map(lambda update: update * factor, updates[LOG_VARIANCES])}


def uncertainty_weights(
    log_variances: Mapping[str, jax.Array], clips: Mapping[str, jax.Array]
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Computes the weights of uncertainty weighting (Kendall, Gal and Cipolla, CVPR 2018).

    The loss for classification is the sum of L_k / sigma_k^2 + log sigma_k.

    Args:
      log_variances: s_k = log sigma_k^2, one scalar per task.
      clips: number of clips that count for each task. A task without any has no loss, and so no penalty.

    Returns:
      The weights exp(-s_k), and the penalty to add to the weighted loss: the sum of s_k / 2.
    """
    weights = {task: jnp.exp(-log_variance) for task, log_variance in log_variances.items()}
    penalised = [jnp.where(clips[task] > 0, log_variance, 0.0) for task, log_variance in log_variances.items()]
    return weights, sum(penalised, jnp.zeros((), jnp.float32)) / 2


def dynamic_weight_average(losses: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Computes the weights of the next epoch by dynamic weight average (Liu, Johns and Davison, CVPR 2019).

    With K tasks and r_k the ratio of the last epoch's loss to the loss of the epoch before, w_k = K softmax(r / T)_k: a task
    whose loss falls slowly weighs more. In the first two epochs every weight is 1.

    Args:
      losses: mean training loss of each task, one mapping per epoch so far.

    Returns:
      task -> weight.
    """
    tasks = list(losses[-1]) if losses else []
    if len(losses) < 2:
        return dict.fromkeys(tasks, 1.0)
    ratios = {task: losses[-1][task] / losses[-2][task] if losses[-2][task] > 0 else 1.0 for task in tasks}
    highest = max(ratios.values())
    powers = {task: math.exp((ratio - highest) / TEMPERATURE) for task, ratio in ratios.items()}
    return {task: len(tasks) * power / sum(powers.values()) for task, power in powers.items()}


def epoch_scalars(balance: str, scalars: Mapping, records: Sequence[Mapping]) -> dict:
    """Computes the scalars for the steps of the next epoch.

    Args:
      balance: one of `BALANCES`.
      scalars: as in `steps.train_step`, with the config's alpha and beta.
      records: of metrics.jsonl so far.
    """
    if balance != "dwa":
        return dict(scalars)
    weights = dynamic_weight_average([{task: record["train"][task]["loss"] for task in ("scene", "event")} for record in records])
    return {
        **scalars,
        "alpha": np.float32(scalars["alpha"] * weights.get("scene", 1.0)),
        "beta": np.float32(scalars["beta"] * weights.get("event", 1.0)),
    }


def current_weights(balance: str, scalars: Mapping, log_variances: Mapping) -> dict[str, float]:
    """Returns the weights of the scene and the event loss at the end of an epoch; empty if they never change.

    Args:
      balance: one of `BALANCES`.
      scalars: of the steps of the epoch.
      log_variances: learned by `uncertainty`, else empty.
    """
    if balance == "fixed":
        return {}
    factors = {task: float(np.exp(-np.asarray(value))) for task, value in log_variances.items()}
    return {
        "scene": float(scalars["alpha"]) * factors.get("scene", 1.0),
        "event": float(scalars["beta"]) * factors.get("event", 1.0),
    }
