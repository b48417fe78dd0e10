"""Clips whose scene or events don't count: loss, gradients and sums by hand, on one device and on two."""

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
    "scene_weight": 1.0, "active_weight": 1.0, "inactive_weight": 1.0, "loss_terms": {},
}  # fmt: skip
ALL = (1, 1, 1, 1, 1)


def make_batch(scene_mask=ALL, event_mask=ALL):
    """Four clips of 5, 5, 1 and 3 frames, and a padding clip; a scene that doesn't count is -1, as if it were not annotated."""
    rng = np.random.default_rng(4)
    clips = len(scene_mask)
    return {
        "scene_logits": rng.normal(0, 2, (clips, SCENES)).astype(np.float32),
        "event_logits": rng.normal(0, 2, (clips, FRAMES, EVENTS)).astype(np.float32),
        "scene": np.where(scene_mask, [0, 2, 1, 1, 0], -1).astype(np.int32),
        "events": (rng.random((clips, FRAMES, EVENTS)) < 0.4) & np.array(event_mask, bool)[:, None, None],
        "valid_frames": np.array([5, 5, 1, 3, 5], np.int32),
        "scene_mask": np.array(scene_mask, bool),
        "event_mask": np.array(event_mask, bool),
        "clip_mask": np.array([1, 1, 1, 1, 0], bool),
    }


@pytest.fixture
def linear_network(monkeypatch):
    """Replaces the network: the logits of a batch times a factor per task, plus an offset per clip."""

    def apply_network(params, batch_stats, feature_stats, batch, **_):
        scene = params["scene"] * batch["scene_logits"] + params["scene_offsets"][batch["clip"]]
        event = params["event"] * batch["event_logits"] + params["event_offsets"][batch["clip"]][:, None]
        return (scene, event), batch_stats

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


def loss_and_gradients(batch, reduction="mean", devices=1):
    """The loss, gradients and sums of a batch that is split over devices."""
    clips = len(batch["scene"])
    params = {"scene": jnp.float32(1), "event": jnp.float32(1)}
    params |= {"scene_offsets": jnp.zeros((clips, SCENES)), "event_offsets": jnp.zeros((clips, EVENTS))}
    batch = {**batch, "clip": np.arange(clips)}
    if devices > 1:
        rows = [(0, -clips % devices)]
        batch = {key: np.pad(value, rows + [(0, 0)] * (value.ndim - 1)) for key, value in batch.items()}
        batch = {key: value.reshape(devices, -1, *value.shape[1:]) for key, value in batch.items()}
    loss, gradients, _, sums = jax.device_get(compile_gradients(reduction, devices)(params, batch))
    return loss, gradients, sums


def expected_scene_loss(batch):
    """The loss in float64, and its derivative by the logits of each clip."""
    counted = np.flatnonzero(batch["scene_mask"] & batch["clip_mask"])
    logits, true = batch["scene_logits"].astype(np.float64), np.eye(SCENES)[batch["scene"]]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    by_logits = np.zeros_like(logits)
    by_logits[counted] = PLAIN["alpha"] * (probabilities - true)[counted] / len(counted)
    return PLAIN["alpha"] * -np.log((probabilities * true).sum(1))[counted].mean(), by_logits


def expected_event_loss(batch, reduction):
    """The loss in float64, its derivative by the logits of each clip and frame, and the number of frames that count."""
    counted = batch["event_mask"] & batch["clip_mask"]
    valid = (np.arange(FRAMES) < batch["valid_frames"][:, None]) & counted[:, None]
    x, active = batch["event_logits"].astype(np.float64), batch["events"]
    count = valid.sum() * EVENTS if reduction == "mean" else counted.sum()
    loss = np.where(active, np.log1p(np.exp(-x)), np.log1p(np.exp(x)))[valid].sum() / count
    return loss, np.where(valid[..., None], 1 / (1 + np.exp(-x)) - active, 0) / count, valid.sum()


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    ("scene_mask", "event_mask"),
    [(ALL, ALL), ((1, 1, 0, 1, 1), ALL), ((0, 1, 0, 0, 1), (1, 0, 1, 1, 0)), (ALL, (1, 0, 0, 1, 1)), (ALL, (0, 0, 0, 1, 0))],
)
def test_each_task_has_the_loss_and_gradients_of_its_own_clips(linear_network, scene_mask, event_mask, reduction, devices):
    """With two devices, the first three clips are on the first: the counts of both must be added before dividing."""
    batch = make_batch(scene_mask, event_mask)
    loss, gradients, sums = loss_and_gradients(batch, reduction, devices)
    scene_loss, by_scene = expected_scene_loss(batch)
    event_loss, by_event, frames = expected_event_loss(batch, reduction)
    np.testing.assert_allclose(loss, scene_loss + event_loss, rtol=1e-5)
    np.testing.assert_allclose(gradients["scene"], (by_scene * batch["scene_logits"]).sum(), rtol=1e-4)
    np.testing.assert_allclose(gradients["event"], (by_event * batch["event_logits"]).sum(), rtol=1e-4)
    np.testing.assert_allclose(gradients["scene_offsets"], by_scene, atol=1e-6)
    np.testing.assert_allclose(gradients["event_offsets"], by_event.sum(1), atol=1e-6)
    assert (gradients["scene_offsets"][~batch["scene_mask"]] == 0).all()
    assert (gradients["event_offsets"][~batch["event_mask"]] == 0).all()
    of_scene, of_event = sum(scene_mask[:4]), sum(event_mask[:4])
    assert (sums["clips"], sums["scene"]["clips"], sums["scene"]["counts"]["confusion"].sum()) == (4, of_scene, of_scene)
    assert sums["event"]["clips"] == of_event
    counts = sums["event"]["counts"]
    assert sums["event"]["active"] + sums["event"]["inactive"] == frames * EVENTS
    assert counts["active"] == (counts["tp"] + counts["fn"]).sum() == sums["event"]["active"]
    figures = steps.epoch_figures({**sums, "loss": loss, "batches": 1}, reduction=reduction)
    assert figures["scene"]["loss"] * PLAIN["alpha"] == pytest.approx(scene_loss, rel=1e-5)
    assert figures["event"]["loss"] == pytest.approx(event_loss, rel=1e-5)


@pytest.mark.parametrize("task", ["scene", "event"])
def test_a_batch_without_a_clip_of_a_task_leaves_the_other_as_it_is(linear_network, task):
    masks = {f"{task}_mask": (0, 0, 0, 0, 0)}
    loss, gradients, sums = loss_and_gradients(make_batch(**masks))
    assert np.isfinite(loss) and gradients[task] == 0 and not gradients[f"{task}_offsets"].any() and sums[task]["loss"] == 0
    _, complete, _ = loss_and_gradients(make_batch())
    other = {"scene": "event", "event": "scene"}[task]
    assert gradients[other] == complete[other] != 0
    np.testing.assert_array_equal(gradients[f"{other}_offsets"], complete[f"{other}_offsets"])
    figures = steps.epoch_figures(sums, reduction="mean")
    assert figures[task]["loss"] is None


def test_counts_of_a_clip_are_those_of_its_annotated_tasks():
    batch = {**make_batch((1, 0, 1, 1, 1), (0, 1, 1, 1, 1)), "number": np.arange(5)}
    counts = steps._clip_counts(batch["scene_logits"], batch["event_logits"], batch, threshold=0.5)
    assert np.asarray(counts["scene"]["answers"]).sum(1).tolist() == [1, 0, 1, 1, 1]
    tp, fp, fn = (np.asarray(counts["event"][name]).sum(1) for name in ("tp", "fp", "fn"))
    assert (tp + fp + fn > 0).tolist() == [False, True, True, True, True]
    assert (tp + fn)[1] == batch["events"][1].sum()
