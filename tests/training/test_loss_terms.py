"""Further terms of the loss: their mean over the clips of all devices, their weight, and their random key."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfl_jax.training import augmentations, loss_terms, steps

pytestmark = pytest.mark.lightly_optimised

BATCH = {
    "scene": np.array([0, 1, 0, 1]),
    "scene_mask": np.ones(4, bool),
    "clip_mask": np.array([True, True, True, False]),
    "x": np.array([[2.0, 0.0], [1.0, 0.0], [4.0, 0.0], [100.0, 0.0]], np.float32),
    "has_term": np.array([True, False, True, True]),
}
SCALARS = {"alpha": 1.0, "beta": 1.0, "eta": 0.0, "scene_weight": 1.0}


@pytest.fixture(autouse=True)
def parts(monkeypatch):
    """A network of one parameter, and a term: the squared first logit of some clips, the last of which is padding."""

    def apply_network(params, batch_stats, feature_stats, batch, **_):
        return (params["w"] * batch["x"], None), batch_stats

    def square(logits, batch, key):
        return jnp.square(logits[0][:, 0]) + 0 * jax.random.uniform(key), batch["has_term"]

    monkeypatch.setattr(steps, "apply_network", apply_network)
    monkeypatch.setitem(loss_terms.TERMS, "square", square)


def loss_and_gradients(weights, devices=1):
    """The loss, the gradient and the sums; `vmap` stands in for several devices."""

    def function(batch, axis_name):
        return steps.loss_and_gradients(
            {"w": jnp.float32(1)}, {}, {}, batch, {**SCALARS, "loss_terms": weights},
            graphdef=None, reduction="mean", threshold=0.5, axis_name=axis_name, key=jax.random.key(0),
        )  # fmt: skip

    if devices == 1:
        loss, gradients, _, sums = function(BATCH, None)
    else:
        batch = {key: value.reshape(devices, -1, *value.shape[1:]) for key, value in BATCH.items()}
        mapped = jax.vmap(functools.partial(function, axis_name="device"), out_axes=None, axis_name="device")
        loss, gradients, _, sums = mapped(batch)
    return float(loss), float(gradients["w"]), jax.device_get(sums)


@pytest.mark.parametrize("devices", [1, 2])
def test_a_term_adds_its_weighted_mean_over_the_clips_of_all_devices(devices):
    """(2 ** 2 + 4 ** 2) / 2 = 10, and its derivative by w is 20; the first two clips are on the first device."""
    loss, gradient, sums = loss_and_gradients({"square": 0.5}, devices)
    plain_loss, plain_gradient, plain_sums = loss_and_gradients({}, devices)
    assert loss - plain_loss == pytest.approx(0.5 * 10, rel=1e-5)
    assert gradient - plain_gradient == pytest.approx(0.5 * 20, rel=1e-5)
    assert sums["loss_terms"] == {"square": {"total": 20, "clips": 2}} and "loss_terms" not in plain_sums
    figures = steps.epoch_figures({**sums, "loss": loss, "batches": 1.0}, reduction="mean")
    assert figures["loss_terms"] == {"square": 10}


def test_sums_of_an_epoch_begin_with_those_of_the_terms_in_use():
    scalars = {**SCALARS, "loss_terms": {"square": np.float32(2)}}
    zeros = steps.zero_sums(("scene",), 2, 0, scalars)
    assert jax.tree.structure(zeros["loss_terms"]) == jax.tree.structure(loss_and_gradients({"square": 2.0})[2]["loss_terms"])
    assert "loss_terms" not in steps.zero_sums(("scene",), 2, 0, {**scalars, "loss_terms": {}})


def test_keys_of_a_step_do_not_repeat_those_that_a_network_splits_off():
    """`split` and `fold_in` of small numbers give the same keys."""
    key = jax.random.key(3)
    split = {tuple(row) for row in jax.random.key_data(jax.random.split(key, 100)).tolist()}
    folded = [tuple(jax.random.key_data(jax.random.fold_in(key, number)).tolist()) for number in range(100)]
    assert split & set(folded)
    own = [jax.random.key_data(jax.random.fold_in(key, number)) for number in (steps.AUGMENTATION_KEY, steps.LOSS_KEY)]
    assert not split & {tuple(data.tolist()) for data in own} and own[0].tolist() != own[1].tolist()


def test_augmentations_are_applied_in_their_order_with_different_keys(monkeypatch):
    seen = []

    def note(batch, strength, key, _):
        seen.append((float(strength), jax.random.key_data(key).tolist()))
        return {"x": batch["x"] * strength + 1}

    for name in ("first", "unused", "second"):
        monkeypatch.setitem(augmentations.AUGMENTATIONS, name, note)
    batch = augmentations.augment({"x": 1.0}, {"second": 3.0, "first": 2.0}, jax.random.key(0), {})
    assert batch == {"x": (1 * 2 + 1) * 3 + 1} and [strength for strength, _ in seen] == [2, 3]
    assert seen[0][1] != seen[1][1]
