"""Networks with random parameters, as exported, and waveforms to run them on."""

import functools
import pathlib

import jax
import numpy as np
from ml_collections import FrozenConfigDict

from mfl_jax.data import mel_spectrogram
from mfl_jax.data.mel_spectrogram import MelConfig
from mfl_jax.data.prepared_dataset import Dataset
from mfl_jax.inference.trained_model import TrainedModel
from mfl_jax.training import setup
from support.small import AUDIO, RATE, small_config

MEL = MelConfig(**{key: value for key, value in AUDIO.items() if key != "clip_s"})
SAMPLES, FRAMES = RATE, 50


@functools.cache
def random_model(*, tasks=("scene", "event"), scenes=3, events=4, seed=0, **fields):
    """A model with random parameters and statistics, some gains and biases negative."""
    config = small_config(pathlib.Path(), tasks=tasks, **fields)
    dataset = Dataset(
        directory=pathlib.Path("nowhere"), scenes=tuple("abc"[:scenes]), events=tuple("vwxyz"[:events]), mel=MEL,
        clip_frames=FRAMES, clips={}, fingerprint="",
    )  # fmt: skip
    graphdef, state = setup.initial_state(config, dataset)
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda a: np.array(a + rng.normal(0, 0.3, a.shape), np.float32), state.params)
    for block in params["shared"].values():
        block["norm"]["scale"] *= rng.choice(np.float32([-1, 1]), block["norm"]["scale"].shape)
    return TrainedModel(
        directory=dataset.directory,
        step=0,
        which="last",
        config=FrozenConfigDict(config),
        scenes=dataset.scenes if "scene" in tasks else (),
        events=dataset.events if "event" in tasks else (),
        fingerprint=dataset.fingerprint,
        mel=MEL,
        clip_frames=FRAMES,
        graphdef=graphdef,
        params=params,
        batch_stats=jax.tree.map(lambda a: np.float32(a + rng.uniform(0, 0.5, a.shape)), state.batch_stats),
        feature_stats={"mean": np.linspace(-9, -7, 32, dtype=np.float32), "std": np.linspace(3, 4, 32, dtype=np.float32)},
    )


def sounds():
    """Clips of noise, a tone, silence, a full-scale square wave, and shorter noise; with the valid samples of each."""
    rng = np.random.default_rng(1)
    t = np.arange(SAMPLES) / RATE
    noise = 0.1 * rng.standard_normal(SAMPLES)
    full = [noise, 0.3 * np.sin(2 * np.pi * 440 * t), np.zeros(SAMPLES), np.sign(np.sin(2 * np.pi * 100 * t + 0.1))]
    short = [1, MEL.hop_samples, MEL.hop_samples + 1, SAMPLES // 2, SAMPLES - 1]
    valid = np.asarray([SAMPLES] * len(full) + short, np.int32)
    clips = np.stack(full + [0.9 * noise * (np.arange(SAMPLES) < samples) for samples in short]).astype(np.float32)
    return clips, valid


def assert_scores_of_model(model, outputs, clips, valid, tolerance=1e-4):
    """Compares the outputs of an exported program with the model, clip by clip."""
    assert set(outputs) == {f"{task}_probabilities" for task in model.config.tasks}
    for number, (clip, samples) in enumerate(zip(clips, valid, strict=True)):
        scene, event = model(mel_spectrogram.compute_log_mel(clip[:samples], model.mel))
        if scene is not None:
            answer = outputs["scene_probabilities"][number]
            np.testing.assert_allclose(answer, scene, rtol=0, atol=tolerance, err_msg=str(number))
        if event is not None:
            frames = outputs["event_probabilities"][number]
            assert frames.shape == (FRAMES, len(model.events))
            np.testing.assert_allclose(frames[: len(event)], event, rtol=0, atol=tolerance, err_msg=str(number))
