"""The optimisers of training, by name, the learning rate over time, and weight decay. The paper has RAdam at a constant rate."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

Scalars = Mapping[str, jax.Array | np.ndarray | float]

OPTIMISER_SCALARS = ("learning_rate",)
"""Config fields that a step takes as float32 scalars for the optimiser, so that changing them compiles nothing."""

OPTIMISERS: dict[str, Callable[[Scalars], optax.GradientTransformation]] = {
    "radam": lambda scalars: optax.radam(scalars["learning_rate"]),
}
"""Values of `config.optimiser`."""
DECAYS = ("none", "cosine")
"""Values of `config.learning_rate_decay`."""


def make_optimiser(name: str, scalars: Scalars) -> optax.GradientTransformation:
    """Makes an optimiser with optax's default moments.

    Args:
      name: one of `OPTIMISERS`.
      scalars: `OPTIMISER_SCALARS` by name: numbers, or scalar arrays inside a compiled step. The optimiser's state must not
        depend on them.
    """
    return OPTIMISERS[name](scalars)


def schedule_scalars(config: Any, epoch_steps: int, sharing: Sequence = ()) -> dict[str, np.float32]:
    """Returns the scalars of a training step that `schedule_learning_rate` reads; none for a constant learning rate.

    Args:
      config: of the run.
      epoch_steps: steps per epoch.
      sharing: configs of the runs that share the compiled step. If any of them uses decay or warm-up, the others get a decay of
        infinitely many steps or a warm-up of none, which change nothing.
    """
    configs, scalars = [config, *sharing], {}
    if any(other.learning_rate_decay != "none" for other in configs):
        scalars["decay_steps"] = np.float32(epoch_steps * config.epochs if config.learning_rate_decay == "cosine" else np.inf)
    if any(other.warmup_epochs for other in configs):
        scalars["warmup_steps"] = np.float32(epoch_steps * config.warmup_epochs)
    return scalars


def schedule_learning_rate(scalars: Scalars, step: jax.Array) -> Scalars:
    """Returns the scalars with the learning rate of a step.

    With `decay_steps`, it follows half a cosine from `learning_rate` to 0. With `warmup_steps` W, it is also multiplied by
    (n + 1) / W in the steps n = 0, 1, ... that are before W.

    Args:
      scalars: of the training step.
      step: n, the number of steps taken before.
    """
    rate = scalars["learning_rate"]
    if "decay_steps" in scalars:
        rate *= optax.cosine_decay_schedule(1.0, 1)(step / scalars["decay_steps"])
    if "warmup_steps" in scalars:
        rate *= optax.linear_schedule(0.0, 1.0, 1)((step + 1) / scalars["warmup_steps"])  # 1 after 0 steps of warm-up
    return {**scalars, "learning_rate": rate}


def decay_weights(updates: Any, params: Any, scalars: Scalars) -> Any:
    """Returns the updates with decoupled weight decay (Loshchilov and Hutter, ICLR 2019).

    Adds -`learning_rate` `weight_decay` w to the update of each weight w of a kernel. Biases and the gains of batch norm do not
    decay. The optimiser's state does not depend on it, so a checkpoint has the same arrays with and without.

    Args:
      updates: of the optimiser.
      params: before the step.
      scalars: of the step; without `weight_decay` the updates are returned as they are.
    """
    if "weight_decay" not in scalars:
        return updates
    kernels = jax.tree_util.tree_map_with_path(lambda path, _: str(path[-1].key).endswith("kernel"), params)
    decay = optax.add_decayed_weights(-scalars["learning_rate"] * scalars["weight_decay"], mask=kernels)
    return decay.update(updates, decay.init(params), params)[0]
