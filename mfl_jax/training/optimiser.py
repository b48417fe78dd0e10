"""The optimiser of every run."""

from collections.abc import Mapping

import jax
import numpy as np
import optax

OPTIMISER_SCALARS = ("learning_rate",)
"""Config fields that a step takes as float32 scalars for the optimiser, so that changing them compiles nothing."""


def make_optimiser(scalars: Mapping[str, jax.Array | np.ndarray | float]) -> optax.GradientTransformation:
    """Makes RAdam with optax's default moments.

    Args:
      scalars: `OPTIMISER_SCALARS` by name: numbers, or scalar arrays inside a compiled step. The optimiser's state must not
        depend on them.
    """
    return optax.radam(scalars["learning_rate"])
