"""The decay of the learning rate against its closed form."""

import jax
import numpy as np
import pytest

from mfl_jax.training.optimiser import decay_learning_rate, decay_scalars


@pytest.mark.parametrize(("step", "share"), [(0, 1.0), (3, 0.75), (4.5, 0.5), (6, 0.25), (9, 0.0), (12, 0.0)])
def test_the_learning_rate_follows_half_a_cosine(step, share):
    scalars = {"learning_rate": np.float32(0.2), "alpha": 1.0, **decay_scalars("cosine", 9)}
    decayed = jax.jit(decay_learning_rate)(scalars, step)
    np.testing.assert_allclose(decayed["learning_rate"], 0.2 * share, atol=1e-7)
    assert decayed["alpha"] == 1


def test_no_decay_changes_nothing():
    scalars = {"learning_rate": np.float32(0.2)}
    assert (
        decay_scalars("none", 9) == {} == decay_scalars("none", 9, ["none", "none"])
        and decay_learning_rate(scalars, 5) is scalars
    )


def test_a_run_without_decay_keeps_its_rate_beside_one_that_decays():
    own = decay_scalars("none", 9, ["none", "cosine"])
    assert float(decay_learning_rate({"learning_rate": np.float32(0.2), **own}, np.int32(7))["learning_rate"]) == np.float32(0.2)
