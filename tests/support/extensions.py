"""Checks the diffs of docs/extend.md in a copy of the package that has them applied: `python -m support.extensions FOLDER`."""

import dataclasses
import pathlib
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import mfl_jax
from configs import proposed
from mfl_jax.data import mel_spectrogram
from mfl_jax.data.mel_spectrogram import MelConfig
from mfl_jax.data.prepared_dataset import Dataset
from mfl_jax.inference import writers
from mfl_jax.training import config_checks, loss_terms, setup, steps
from mfl_jax.training.augmentations import augment
from mfl_jax.training.optimiser import make_optimiser

CLIPS, FRAMES, BINS = 3, 25, 32
DATASET = Dataset(pathlib.Path(), ("a", "b"), ("x", "y"), MelConfig(mel_bins=BINS), FRAMES, {}, "")


def make_config(**fields):
    """The proposed system with the network of the diff."""
    config = proposed.get_config()
    config.update({"network": "frames", "hidden": 4, "channels": 2, "devices": 1, "batch_size": CLIPS, **fields})
    config_checks.check_config(config)
    return config


def make_batch():
    """Two clips, of 25 and 20 frames, and a padding clip."""
    rng = np.random.default_rng(0)
    return {
        "log_mel": rng.standard_normal((CLIPS, FRAMES, BINS)).astype(np.float32),
        "events": rng.random((CLIPS, FRAMES, 2)) < 0.3,
        "scene": np.array([0, 1, 0], np.int32),
        "valid_frames": np.array([25, 20, 0], np.int32),
        **{name: np.array([True, True, False]) for name in ("scene_mask", "event_mask", "clip_mask")},
    }


def check_loss_term():
    logits = np.random.default_rng(1).normal(0, 2, (1, 6, 2)).astype(np.float32)
    values, counted = loss_terms.TERMS["smoothness"]((None, logits), {"valid_frames": np.array([4])}, jax.random.key(0))
    probabilities = 1 / (1 + np.exp(-logits[0, :4].astype(np.float64)))
    np.testing.assert_allclose(values[0], np.square(np.diff(probabilities, axis=0)).mean(), rtol=1e-5)
    assert counted.tolist() == [True]
    assert not loss_terms.TERMS["smoothness"]((None, logits), {"valid_frames": np.array([1])}, jax.random.key(0))[1].any()


def check_step():
    """One step with the loss term, the augmentation, the optimiser and the network together."""
    config = make_config(loss_terms={"smoothness": 2.0}, augmentations={"noise": 20.0}, optimiser="sgd")
    run = setup.build_run(config, DATASET)
    losses = []
    for seed in (0, 0, 1):  # the loss depends on the noise, and so on the seed
        state, loss = run.train_step(jax.tree.map(jnp.copy, run.initial), make_batch(), {**run.scalars, "seed": np.uint32(seed)})
        figures = steps.epoch_figures(jax.device_get(state.sums), reduction="mean")
        losses.append(float(loss))
        of_terms = 2 * figures["loss_terms"]["smoothness"]
        expected = config.alpha * figures["scene"]["loss"] + figures["event"]["loss"] + of_terms
        assert of_terms > 0 and abs(expected - losses[-1]) < 1e-5 * expected
    assert losses[0] == losses[1] != losses[2]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state.params)))


def check_augmentation():
    batch = make_batch()
    stats = {"mean": np.zeros(BINS, np.float32)}
    changed = np.asarray(augment(batch, {"noise": np.float32(6)}, jax.random.key(0), stats)["log_mel"] - batch["log_mel"])
    decibels = 10 * changed[:2, :20] / np.log(10)
    assert abs(decibels.std() - 6) < 0.5 and abs(decibels.mean()) < 0.7 and not changed[1, 20:].any() and not changed[2].any()
    assert augment(batch, {}, jax.random.key(0), stats) is batch


def check_optimiser():
    optimiser = make_optimiser("sgd", {"learning_rate": 0.1, "momentum": 0.5})
    params, gradient = jnp.array([2.0, -4.0]), jnp.array([1e-3, 10.0])
    _, state = optimiser.update(gradient, optimiser.init(params), params)
    updates, _ = optimiser.update(gradient, state, params)
    np.testing.assert_allclose(updates, -0.1 * 1.5 * gradient, rtol=1e-6)


def check_network_and_head():
    network = setup.build_network(make_config(), DATASET)
    x, mask = make_batch()["log_mel"], np.arange(FRAMES) < np.array([[25], [20], [0]])
    scene, event = network(x, mask=mask)
    assert scene.shape == (CLIPS, 2) and event.shape == (CLIPS, FRAMES, 2)
    again, _ = network(np.where(mask[..., None], x, 1e6), mask=mask)
    np.testing.assert_array_equal(scene, again)
    head = nnx.eval_shape(lambda: setup.build_network(make_config(network="joint", event_head="dense"), DATASET)).event
    assert type(head).__name__ == "DenseEventHead" and not hasattr(head, "gru")


def check_feature():
    slaney, htk = (mel_spectrogram.mel_filters(MelConfig(htk_scale=scale)) for scale in (False, True))
    np.testing.assert_array_equal(slaney, mel_spectrogram.mel_filters(MelConfig()))
    assert slaney.shape == htk.shape and abs(slaney - htk).max() > 1e-3
    assert "htk_scale" in dataclasses.asdict(MelConfig())


def check_format(folder: pathlib.Path):
    event = types.SimpleNamespace(label="a car", onset_s=0.5, offset_s=2.0, confidence=0.75)
    write, suffix = writers.FORMATS["csv"]
    write(types.SimpleNamespace(detected=[event]), folder / f"a{suffix}")
    assert (folder / "a.csv").read_text() == 'label,onset,offset,confidence\n"a car",0.5,2.0,0.750000\n'


if __name__ == "__main__":
    copy = pathlib.Path(sys.argv[1])
    assert pathlib.Path(mfl_jax.__file__).is_relative_to(copy), mfl_jax.__file__
    check_loss_term()
    check_augmentation()
    check_optimiser()
    check_network_and_head()
    check_feature()
    check_format(copy)
    check_step()
    print("all extensions work")
