"""The optimisers of training, by name; the paper's is RAdam."""

from collections.abc import Callable, Mapping

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


def make_optimiser(name: str, scalars: Scalars) -> optax.GradientTransformation:
    """Makes an optimiser with optax's default moments.

    Args:
      name: one of `OPTIMISERS`.
      scalars: `OPTIMISER_SCALARS` by name: numbers, or scalar arrays inside a compiled step. The optimiser's state must not
        depend on them.
    """
    return OPTIMISERS[name](scalars)
