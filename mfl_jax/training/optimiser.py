"""The optimisers of training, by name; the paper's is RAdam."""

from collections.abc import Callable, Mapping, Sequence

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


def decay_scalars(decay: str, total_steps: int, sharing: Sequence[str] = ()) -> dict[str, np.float32]:
    """Returns the scalars of a training step that `decay_learning_rate` reads; none without decay.

    Args:
      decay: one of `DECAYS`.
      total_steps: of all epochs.
      sharing: decays of the runs that share the compiled step. If any of them is not `none`, a run without decay gets one of
        infinitely many steps.
    """
    if {decay, *sharing} == {"none"}:
        return {}
    return {"decay_steps": np.float32(total_steps if decay == "cosine" else np.inf)}


def decay_learning_rate(scalars: Scalars, step: jax.Array) -> Scalars:
    """Returns the scalars with the learning rate of a step: half a cosine from `learning_rate` to 0 in `decay_steps`, if given.

    Args:
      scalars: of the training step.
      step: number of steps taken before.
    """
    if "decay_steps" not in scalars:
        return scalars
    share = optax.cosine_decay_schedule(1.0, 1)(step / scalars["decay_steps"])
    return {**scalars, "learning_rate": scalars["learning_rate"] * share}
