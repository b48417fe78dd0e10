"""The learning rate over time and the weight decay against their closed forms."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mfl_jax.training import optimiser

RATE = np.float32(0.2)
CONSTANT = types.SimpleNamespace(epochs=3, learning_rate_decay="none", warmup_epochs=0.0)
COSINE = types.SimpleNamespace(epochs=3, learning_rate_decay="cosine", warmup_epochs=0.0)
WARM = types.SimpleNamespace(epochs=3, learning_rate_decay="none", warmup_epochs=1.5)
BOTH = types.SimpleNamespace(epochs=3, learning_rate_decay="cosine", warmup_epochs=1.5)


def scheduled_rate(config, step, *, epoch_steps, sharing=()):
    scalars = {"learning_rate": RATE, "alpha": 1.0, **optimiser.schedule_scalars(config, epoch_steps, sharing)}
    scheduled = jax.jit(optimiser.schedule_learning_rate)(scalars, step)
    assert scheduled["alpha"] == 1
    return float(scheduled["learning_rate"])


@pytest.mark.parametrize(("step", "share"), [(0, 1.0), (3, 0.75), (4.5, 0.5), (6, 0.25), (9, 0.0), (12, 0.0)])
def test_the_learning_rate_follows_half_a_cosine(step, share):
    np.testing.assert_allclose(scheduled_rate(COSINE, step, epoch_steps=3), 0.2 * share, atol=1e-7)


@pytest.mark.parametrize(("step", "share"), [(0, 1 / 6), (1, 1 / 3), (4, 5 / 6), (5, 1.0), (6, 1.0), (100, 1.0)])
def test_the_learning_rate_rises_linearly_during_the_warm_up(step, share):
    np.testing.assert_allclose(scheduled_rate(WARM, step, epoch_steps=4), 0.2 * share, rtol=1e-6)


def test_warm_up_multiplies_the_cosine():
    np.testing.assert_allclose(scheduled_rate(BOTH, 3, epoch_steps=4), 0.2 * (4 / 6) * (1 + np.cos(np.pi / 4)) / 2, rtol=1e-6)


def test_a_warm_up_of_less_than_a_step_changes_nothing():
    short = types.SimpleNamespace(**{**vars(WARM), "warmup_epochs": 0.1})
    assert scheduled_rate(short, 0, epoch_steps=4) == RATE


@pytest.mark.parametrize("step", [0, 7])
def test_a_constant_rate_stays_beside_runs_that_change_theirs(step):
    scalars = {"learning_rate": RATE}
    assert optimiser.schedule_scalars(CONSTANT, 4) == optimiser.schedule_scalars(CONSTANT, 4, [CONSTANT]) == {}
    assert optimiser.schedule_learning_rate(scalars, step) == scalars
    assert scheduled_rate(CONSTANT, step, epoch_steps=4, sharing=[CONSTANT, BOTH]) == RATE


def test_weight_decay_is_that_of_adamw_on_kernels_alone():
    """Optax's AdamW with a mask is the independent form."""
    rng = np.random.default_rng(0)
    params = {"head": {"kernel": rng.normal(size=(3, 2)), "bias": rng.normal(size=(2,))}, "gru": {"recurrent_kernel": np.ones(2)}}
    gradients = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), params)
    mask = {"head": {"kernel": True, "bias": False}, "gru": {"recurrent_kernel": True}}
    adamw, adam = optax.adamw(0.1, weight_decay=0.5, mask=mask), optax.adam(0.1)
    expected, _ = adamw.update(gradients, adamw.init(params), params)
    updates, _ = adam.update(gradients, adam.init(params), params)
    scalars = {"learning_rate": np.float32(0.1), "weight_decay": np.float32(0.5)}
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-5),
        jax.jit(optimiser.decay_weights)(updates, params, scalars), expected,
    )  # fmt: skip
    assert optimiser.decay_weights(updates, params, {"learning_rate": np.float32(0.1)}) is updates
    unchanged = optimiser.decay_weights(updates, params, {**scalars, "weight_decay": np.float32(0)})
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(unchanged), jax.device_get(jax.tree.map(jnp.asarray, updates)))
