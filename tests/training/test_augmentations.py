"""Augmentations against closed forms; padding, clips that don't count, and clips without a partner stay as they are."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from mfl_jax.runtime import parallel
from mfl_jax.training import augmentations, setup, steps
from mfl_jax.training.augmentations import AUGMENTATIONS, augment
from mfl_jax.training.optimiser import make_optimiser

pytestmark = pytest.mark.lightly_optimised

CLIPS, FRAMES, BINS, EVENTS = 6, 20, 9, 3
DECIBEL = math.log(10) / 10
STATS = {"mean": np.linspace(-3, 3, BINS).astype(np.float32), "std": np.ones(BINS, np.float32)}
VALID = np.array([20, 12, 20, 20, 7, 20], np.int32)
IS_VALID = np.arange(FRAMES) < VALID[:, None]
STRENGTHS = {"same_scene_mixing": 1.0, "filter_augment": 6.0, "gain": 6.0, "time_mask": 5.0, "frequency_mask": 3.0}


def make_batch(**entries):
    """Six clips of two scenes, two of them shorter; the last row is padding that repeats a clip."""
    rng = np.random.default_rng(0)
    batch = {
        "log_mel": rng.normal(-5, 2, (CLIPS, FRAMES, BINS)).astype(np.float32),
        "events": rng.random((CLIPS, FRAMES, EVENTS)) < 0.3,
        "scene": np.array([0, 0, 1, 1, 0, 1], np.int32),
        "valid_frames": VALID,
        "scene_mask": np.ones(CLIPS, bool),
        "event_mask": np.ones(CLIPS, bool),
        "clip_mask": np.arange(CLIPS) < 5,
    }
    return {**batch, **entries}


@functools.partial(jax.jit, static_argnames="name")
def _draw(batch, strength, seeds, name):
    return jax.vmap(lambda seed: augment(batch, {name: strength}, jax.random.key(seed), STATS))(seeds)


def draw(name, batch, strength, seeds):
    """Spectrograms and events after an augmentation, with a leading axis of seeds, like members of a group."""
    after = jax.device_get(_draw(batch, np.float32(strength), np.arange(seeds), name))
    return after["log_mel"], after["events"]


def apply(name, batch, strength):
    log_mel, events = draw(name, batch, strength, 1)
    return log_mel[0], events[0]


def pair(first, second, **entries):
    """Two constant clips of one scene."""
    log_mel = np.float32([first, second])[:, None, None] * np.ones((1, FRAMES, BINS), np.float32)
    events = np.zeros((2, FRAMES, 2), bool)
    events[0, :5, 0] = events[1, 3:, 1] = True
    masks = {name: np.ones(2, bool) for name in ("clip_mask", "scene_mask", "event_mask")}
    batch = {"log_mel": log_mel, "events": events, "scene": np.zeros(2, np.int32), "valid_frames": np.int32([FRAMES, FRAMES])}
    return {**batch, **masks, **entries}


def test_every_augmentation_is_a_field_of_the_config_and_off():
    assert default.get_config().augmentations.to_dict() == dict.fromkeys(AUGMENTATIONS, 0.0)
    assert setup.step_scalars(default.get_config())["augmentations"] == {}
    assert list(STRENGTHS) == list(AUGMENTATIONS)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_strength_0_changes_nothing(name):
    """Members of an experiment share a program, so one without an augmentation computes it at strength 0."""
    batch = make_batch()
    log_mel, events = apply(name, batch, 0.0)
    np.testing.assert_array_equal(log_mel, batch["log_mel"])
    np.testing.assert_array_equal(events, batch["events"])


def test_no_strength_returns_the_very_batch():
    batch = make_batch()
    assert augment(batch, {}, jax.random.key(0), STATS) is batch


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_padding_and_types_stay_and_every_clip_seed_and_strength_differs(name):
    batch = make_batch()
    log_mel, events = draw(name, batch, STRENGTHS[name], 20)
    changed = log_mel != batch["log_mel"]
    assert changed[:, IS_VALID].any() and not changed[:, ~IS_VALID].any()
    np.testing.assert_array_equal(events[:, ~IS_VALID], np.broadcast_to(batch["events"], events.shape)[:, ~IS_VALID])
    assert log_mel.dtype == np.float32 and events.dtype == bool
    assert len(np.unique(log_mel[:, 0, :12], axis=0)) > 5
    assert (log_mel[:, 2] - batch["log_mel"][2] != log_mel[:, 3] - batch["log_mel"][3]).any()


def test_a_member_of_a_group_draws_what_a_run_alone_draws():
    strengths = {name: jnp.float32(strength) for name, strength in STRENGTHS.items()}
    batch = jax.tree.map(jnp.asarray, make_batch())

    def change(seed):
        return augment(batch, strengths, jax.random.key(seed), STATS)

    together, alone = jax.jit(jax.vmap(change))(jnp.arange(2)), jax.jit(change)(1)
    np.testing.assert_array_equal(together["events"][1], alone["events"])
    np.testing.assert_allclose(together["log_mel"][1], alone["log_mel"], atol=1e-5)
    assert alone["scene"] is not None and set(alone) == set(batch)


def test_equal_clips_become_twice_as_loud_without_gain(monkeypatch):
    monkeypatch.setattr(augmentations, "LOWEST_GAIN_DB", 0.0)
    monkeypatch.setattr(augmentations, "HIGHEST_GAIN_DB", 0.0)
    batch = jax.tree.map(jnp.asarray, pair(-2.0, -2.0))
    after = jax.jit(lambda: augment(batch, {"same_scene_mixing": 1.0}, jax.random.key(0), STATS))()  # compiled with these gains
    np.testing.assert_allclose((after["log_mel"] + 2.0) / DECIBEL, 10 * math.log10(2), rtol=1e-5)


def test_powers_add_up_within_the_range_of_the_gain():
    """Powers 1 and 3 become 1 + 3 g and 3 + g, with g from -6 to 3 dB, another one for each clip and seed."""
    log_mel, _ = draw("same_scene_mixing", pair(0.0, math.log(3.0)), 1, 300)
    power = np.exp(log_mel.astype(np.float64))
    assert np.ptp(power, axis=(2, 3)).max() < 1e-4
    decibels = 10 * np.log10(np.concatenate([(power[:, 0, 0, 0] - 1) / 3, power[:, 1, 0, 0] - 3]))
    assert -6.001 <= decibels.min() < -5.5 and 2.5 < decibels.max() <= 3.001


def test_events_of_both_are_active_where_both_are_valid():
    batch = pair(0.0, 0.0, valid_frames=np.int32([FRAMES, 8]))
    log_mel, events = apply("same_scene_mixing", batch, 1)
    expected = batch["events"].copy()
    expected[:, :8] = batch["events"][:1, :8] | batch["events"][1:, :8]
    np.testing.assert_array_equal(events, expected)
    np.testing.assert_array_equal((log_mel != 0).all(-1), np.arange(FRAMES) < [[8], [8]])


@pytest.mark.parametrize(
    "entries",
    [
        {"scene": np.int32([0, 1])},
        {"clip_mask": np.array([True, False])},
        {"scene_mask": np.array([True, False])},
        {"event_mask": np.array([True, False])},
        {"event_mask": np.array([False, True])},
        {"valid_frames": np.int32([FRAMES, 0])},
    ],
    ids=["another scene", "padding row", "scene unknown", "events of partner unknown", "events unknown", "no valid frame"],
)
def test_a_clip_without_a_partner_stays(entries):
    batch = pair(0.0, -1.0, **entries)
    log_mel, events = apply("same_scene_mixing", batch, 1)
    np.testing.assert_array_equal(log_mel, batch["log_mel"])
    np.testing.assert_array_equal(events, batch["events"])


def test_partners_are_all_other_clips_of_the_scene():
    """Each of five clips has another active event, so the events of a mixed clip name its partner."""
    events = np.zeros((5, FRAMES, 5), bool)
    events[np.arange(5), :, np.arange(5)] = True
    masks = {name: np.ones(5, bool) for name in ("clip_mask", "scene_mask", "event_mask")}
    batch = {
        "log_mel": np.zeros((5, FRAMES, BINS), np.float32), "events": events, "scene": np.int32([2, 2, 2, 2, 1]),
        "valid_frames": np.full(5, FRAMES), **masks,
    }  # fmt: skip
    counts = draw("same_scene_mixing", batch, 1, 300)[1][:, :, 0].sum(axis=0)
    expected = np.full((4, 4), 100.0)
    np.fill_diagonal(expected, 300)
    np.testing.assert_allclose(counts[:4, :4], expected, atol=5 * math.sqrt(300 * 2 / 9))
    assert counts[4].tolist() == [0, 0, 0, 0, 300]


def test_probability_is_the_share_of_mixed_clips():
    mixed = draw("same_scene_mixing", pair(0.0, 0.0), 0.3, 300)[0][:, :, 0, 0] != 0
    assert abs(mixed.mean() - 0.3) < 5 * math.sqrt(0.3 * 0.7 / mixed.size)


def test_the_filter_is_piecewise_linear_and_within_its_range():
    """With nine bins and four segments, the even bins are ends of segments and the odd ones lie halfway."""
    batch = make_batch(valid_frames=np.full(CLIPS, FRAMES, np.int32))
    change = (apply("filter_augment", batch, 6)[0] - batch["log_mel"]) / DECIBEL
    np.testing.assert_allclose(change, np.broadcast_to(change[:, :1], change.shape), atol=1e-4)
    curve = change[:, 0]
    np.testing.assert_allclose(curve[:, 1::2], (curve[:, :-1:2] + curve[:, 2::2]) / 2, atol=1e-4)
    assert 4 < abs(curve).max() <= 6.0001
    assert abs(np.diff(curve, n=2)[:, 1::2]).min() > 1e-3  # it bends at every end


def test_gain_is_one_number_per_clip_within_its_range():
    batch = make_batch(valid_frames=np.full(CLIPS, FRAMES, np.int32))
    change = (draw("gain", batch, 6, 20)[0] - batch["log_mel"]) / DECIBEL
    np.testing.assert_allclose(change, np.broadcast_to(change[:, :, :1, :1], change.shape), atol=1e-4)
    assert -6.0001 < change.min() < -5.5 and 5.5 < change.max() <= 6.0001


def count_runs(hidden):
    """The number of stretches of True in each row."""
    return (np.diff(np.pad(hidden, [(0, 0), (1, 0)]).astype(int), axis=-1) == 1).sum(-1)


def test_hidden_frames_are_the_mean_and_silent():
    batch = make_batch(events=np.ones((CLIPS, FRAMES, EVENTS), bool))
    log_mel, events = draw("time_mask", batch, 9, 300)
    hidden = ~events.all(-1)
    np.testing.assert_array_equal(hidden, ~events.any(-1))
    np.testing.assert_array_equal(log_mel, np.where(hidden[..., None], STATS["mean"], batch["log_mel"]))
    assert not (hidden & ~IS_VALID).any() and count_runs(hidden.reshape(-1, FRAMES)).max() == 1
    assert set(hidden[:, 0].sum(-1)) == set(range(10))
    assert set(hidden[:, 4].sum(-1)) == set(range(8))  # of 7 valid frames
    assert hidden[:, 0].any(axis=0).all()  # every frame may be hidden


def test_hidden_bins_are_the_mean():
    batch = make_batch()
    log_mel, events = draw("frequency_mask", batch, 3, 300)
    hidden = (log_mel != batch["log_mel"])[:, :, 0]  # of the first frame, which is valid
    expected = np.where(hidden[:, :, None] & IS_VALID[..., None], STATS["mean"], batch["log_mel"])
    np.testing.assert_array_equal(log_mel, expected)
    assert set(hidden.sum(-1).ravel()) == {0, 1, 2, 3} and count_runs(hidden.reshape(-1, BINS)).max() == 1
    assert hidden.any(axis=(0, 1)).all()
    np.testing.assert_array_equal(events, np.broadcast_to(batch["events"], events.shape))


DEVICES, PER_DEVICE, REAL = 8, 3, 13


def make_global_batch():
    """Thirteen clips of one scene on eight devices, as the last batch of an epoch: the fifth has one, the others of it none."""
    rows, rng = DEVICES * PER_DEVICE, np.random.default_rng(1)
    return {
        "log_mel": rng.normal(-5, 2, (rows, FRAMES, BINS)).astype(np.float32),
        "events": rng.random((rows, FRAMES, EVENTS)) < 0.3,
        "scene": np.zeros(rows, np.int32),
        "valid_frames": rng.integers(5, FRAMES + 1, rows).astype(np.int32),
        "clip_mask": np.arange(rows) < REAL,
        **{name: np.ones(rows, bool) for name in ("scene_mask", "event_mask")},
    }


def compile_steps_that_pass_on_their_batch(monkeypatch):
    """Compiles a training step for eight devices that returns the batch of its loss, and does without a network."""

    def pass_batch_on(params, batch_stats, feature_stats, batch, scalars, **_):
        return jnp.float32(0), params, {name: batch[name] for name in ("log_mel", "events")}, {}

    monkeypatch.setattr(steps, "loss_and_gradients", pass_batch_on)
    step = functools.partial(
        steps.train_step, graphdef=None, reduction="mean", threshold=0.5, optimiser="radam", axis_name=parallel.AXIS
    )
    mapped = jax.pmap(step, parallel.AXIS, in_axes=(None, 0, None), devices=jax.devices()[:DEVICES])
    zero, opt_state = jnp.float32(0), make_optimiser("radam", {"learning_rate": 0.1}).init({})
    state = steps.TrainState(jnp.int32(7), {}, {}, opt_state, feature_stats=STATS, sums={"loss": zero, "batches": zero})

    def take_step(batch, strengths):
        scalars = {"seed": np.uint32(3), "augmentations": strengths, "learning_rate": np.float32(0.1)}
        return jax.device_get(mapped(state, parallel.split_batch(batch, DEVICES), scalars)[0].batch_stats)

    return take_step


def test_steps_on_eight_devices_change_the_rows_of_each_by_its_own_key(monkeypatch):
    """One augmentation after the other, the others with strength 0, which changes nothing.

    Against each device's rows alone, compiled for one device, with the keys of seed 3, step 7 and the device.
    """
    batch, take_step = make_global_batch(), compile_steps_that_pass_on_their_batch(monkeypatch)
    change = jax.jit(lambda rows, strengths, key: augment(rows, strengths, key, STATS))
    of_step = jax.random.fold_in(jax.random.key(3), 7)
    keys = [jax.random.fold_in(jax.random.fold_in(of_step, device), steps.AUGMENTATION_KEY) for device in range(DEVICES)]
    for name in AUGMENTATIONS:
        strengths = {other: np.float32(STRENGTHS[name] if other == name else 0) for other in AUGMENTATIONS}
        got = take_step(batch, strengths)
        for device, key in enumerate(keys):
            rows = {field: array[device * PER_DEVICE : (device + 1) * PER_DEVICE] for field, array in batch.items()}
            alone = jax.device_get(change(rows, strengths, key))
            np.testing.assert_array_equal(got["events"][device], alone["events"])
            np.testing.assert_allclose(got["log_mel"][device], alone["log_mel"], rtol=0, atol=1e-5 * abs(rows["log_mel"]).max())
            is_changed = (got["log_mel"][device] != rows["log_mel"]).any((1, 2))
            if name == "same_scene_mixing":  # a device's rows are mixed among themselves
                assert is_changed.tolist() == [device < REAL // PER_DEVICE] * PER_DEVICE
            other = change(rows, strengths, keys[(device + 1) % DEVICES])["log_mel"]
            assert not is_changed.any() or abs(got["log_mel"][device] - other).max() > 1e-3, name
        assert (got["log_mel"].reshape(batch["log_mel"].shape) != batch["log_mel"]).any(), name


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("filling", ["zeros", "another clip"])
def test_a_clip_does_not_depend_on_padding_rows(name, filling):
    """Padding rows are zeros where batches are read, and any clip where clips stay on the devices."""
    batch = make_batch(scene=np.zeros(CLIPS, np.int32))
    real = batch["clip_mask"]
    filled = jax.tree.map(np.copy, batch)
    for field, loud in (("log_mel", 50.0), ("events", True), ("valid_frames", 3), ("scene_mask", True), ("event_mask", True)):
        filled[field][~real] = 0 if filling == "zeros" else loud
    (log_mel, events), (expected_log_mel, expected_events) = (draw(name, one, STRENGTHS[name], 20) for one in (filled, batch))
    np.testing.assert_array_equal(log_mel[:, real], expected_log_mel[:, real])
    np.testing.assert_array_equal(events[:, real], expected_events[:, real])
    assert (log_mel[:, real] != batch["log_mel"][real]).any()
    if name == "same_scene_mixing":
        np.testing.assert_array_equal(log_mel[:, ~real], np.broadcast_to(filled["log_mel"][~real], log_mel[:, ~real].shape))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_valid_frames_do_not_depend_on_silent_padding_which_stays(name):
    batch = make_batch(scene=np.zeros(CLIPS, np.int32))
    silent = {**batch, "log_mel": batch["log_mel"].copy(), "events": batch["events"] & IS_VALID[..., None]}
    silent["log_mel"][~IS_VALID] = np.log(np.float32(1e-10))
    (log_mel, events), (expected_log_mel, expected_events) = (draw(name, one, STRENGTHS[name], 20) for one in (silent, batch))
    assert (log_mel[:, ~IS_VALID] == np.log(np.float32(1e-10))).all() and not events[:, ~IS_VALID].any()
    np.testing.assert_array_equal(log_mel[:, IS_VALID], expected_log_mel[:, IS_VALID])
    np.testing.assert_array_equal(events[:, IS_VALID], expected_events[:, IS_VALID])
