"""Clips that don't count for scenes: loss, gradients and sums by hand, on one device and on two."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfl_jax.training import steps

pytestmark = pytest.mark.lightly_optimised

SCENES, EVENTS, FRAMES = 3, 2, 5
PLAIN = {
    "alpha": 2.0, "beta": 1.0, "gamma": 0.0, "zeta": 0.0, "eta": 0.0,
    "scene_weight": 1.0, "active_weight": 1.0, "inactive_weight": 1.0,
}  # fmt: skip


def make_batch(scene_mask):
    """Four clips of 5, 5, 1 and 3 frames, and a padding clip."""
    rng = np.random.default_rng(4)
    clips = len(scene_mask)
    return {
        "scene_logits": rng.normal(0, 2, (clips, SCENES)).astype(np.float32),
        "event_logits": rng.normal(0, 2, (clips, FRAMES, EVENTS)).astype(np.float32),
        "scene": np.array([0, 2, 1, 1, 0], np.int32),
        "events": rng.random((clips, FRAMES, EVENTS)) < 0.4,
        "valid_frames": np.array([5, 5, 1, 3, 5], np.int32),
        "scene_mask": np.array(scene_mask, bool),
        "clip_mask": np.array([1, 1, 1, 1, 0], bool),
    }


@pytest.fixture
def linear_network(monkeypatch):
    """Replaces the network: the logits of a batch times a factor per task, plus an offset per clip."""

    def apply_network(params, batch_stats, feature_stats, batch, **_):
        scene = params["scene"] * batch["scene_logits"] + params["offsets"][batch["clip"]]
        return (scene, params["event"] * batch["event_logits"]), batch_stats

    monkeypatch.setattr(steps, "apply_network", apply_network)


@functools.cache
def compile_gradients(reduction, devices):
    """Compiles `steps.loss_and_gradients` of the linear network; on several devices, which `vmap` stands in for."""

    def function(params, batch, axis_name):
        return steps.loss_and_gradients(
            params, {}, {}, batch, PLAIN, graphdef=None, reduction=reduction, threshold=0.5, axis_name=axis_name
        )  # fmt: skip

    if devices == 1:
        return jax.jit(functools.partial(function, axis_name=None))
    each = functools.partial(function, axis_name="device")
    return jax.jit(jax.vmap(each, in_axes=(None, 0), out_axes=None, axis_name="device"))


def loss_and_gradients(batch, reduction, devices):
    """The loss, gradients and sums of a batch that is split over devices."""
    clips = len(batch["scene"])
    params = {"scene": jnp.float32(1), "event": jnp.float32(1), "offsets": jnp.zeros((clips, SCENES))}
    batch = {**batch, "clip": np.arange(clips)}
    if devices > 1:
        rows = [(0, -clips % devices)]
        batch = {key: np.pad(value, rows + [(0, 0)] * (value.ndim - 1)) for key, value in batch.items()}
        batch = {key: value.reshape(devices, -1, *value.shape[1:]) for key, value in batch.items()}
    loss, gradients, _, sums = jax.device_get(compile_gradients(reduction, devices)(params, batch))
    return loss, gradients, sums


def expected_loss(batch, reduction):
    """The loss in float64, and its derivatives by the factors of the two tasks and by the scene logits of each clip."""
    counted = np.flatnonzero(batch["scene_mask"] & batch["clip_mask"])
    logits, true = batch["scene_logits"].astype(np.float64), np.eye(SCENES)[batch["scene"]]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    by_logits = np.zeros_like(logits)
    by_logits[counted] = PLAIN["alpha"] * (probabilities - true)[counted] / len(counted)
    scene_loss = -np.log((probabilities * true).sum(1))[counted].mean()
    valid = (np.arange(FRAMES) < batch["valid_frames"][:, None]) & batch["clip_mask"][:, None]
    x, active = batch["event_logits"].astype(np.float64)[valid], batch["events"][valid]
    cells = x.size if reduction == "mean" else batch["clip_mask"].sum()
    event_loss = np.where(active, np.log1p(np.exp(-x)), np.log1p(np.exp(x))).sum() / cells
    by_event = ((1 / (1 + np.exp(-x)) - active) * x).sum() / cells
    return PLAIN["alpha"] * scene_loss + event_loss, (by_logits * logits).sum(), by_event, by_logits


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("scene_mask", [[1, 1, 0, 1, 1], [0, 1, 0, 0, 1], [1, 1, 1, 1, 1]])
def test_loss_and_gradients_leave_the_scene_out_and_keep_the_events(linear_network, scene_mask, reduction, devices):
    """With two devices, the first three clips are on the first: the counts of both must be added before dividing."""
    batch = make_batch(scene_mask)
    loss, gradients, sums = loss_and_gradients(batch, reduction, devices)
    expected, by_scene, by_event, by_logits = expected_loss(batch, reduction)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(gradients["scene"], by_scene, rtol=1e-4)
    np.testing.assert_allclose(gradients["event"], by_event, rtol=1e-4)
    np.testing.assert_allclose(gradients["offsets"], by_logits, atol=1e-6)
    assert (gradients["offsets"][~batch["scene_mask"]] == 0).all()
    counted = sum(scene_mask[:4])
    assert (sums["clips"], sums["scene"]["clips"], sums["scene"]["counts"]["confusion"].sum()) == (4, counted, counted)
    assert sums["event"]["active"] + sums["event"]["inactive"] == (5 + 5 + 1 + 3) * EVENTS


def test_a_batch_without_a_scene_that_counts_has_no_scene_loss(linear_network):
    batch = make_batch([0, 0, 0, 0, 0])
    loss, gradients, sums = loss_and_gradients(batch, "mean", 1)
    assert not gradients["offsets"].any() and gradients["scene"] == 0 and sums["scene"]["loss"] == sums["scene"]["factor"] == 0
    _, only_events, _ = loss_and_gradients({**batch, "scene_mask": np.ones(5, bool)}, "mean", 1)
    assert np.isfinite(loss) and gradients["event"] == only_events["event"]
