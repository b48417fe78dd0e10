"""The optimiser of every run."""

import jax
import optax


def make_optimiser(learning_rate: float | jax.Array) -> optax.GradientTransformation:
    """Makes RAdam with optax's default moments.

    Args:
      learning_rate: a number, or a scalar array inside a compiled step. The optimiser's state does not depend on it.
    """
    return optax.radam(learning_rate)
