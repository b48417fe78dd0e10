"""A stand-in for a trained model whose predictions are known: it looks at each frame alone. And helpers to predict with it."""

import dataclasses
import pathlib
import types

import ml_collections
import numpy as np

from mfl_jax.data import mel_spectrogram
from mfl_jax.inference import streaming
from mfl_jax.inference.prediction import Prediction, UnreadableRecording
from mfl_jax.inference.trained_model import TrainedModel
from support import small

MEL = mel_spectrogram.MelConfig(**{key: value for key, value in small.AUDIO.items() if key != "clip_s"})
CLIP_FRAMES = 50
BINS = {"low": 6, "high": 23}
"""Mel bins of the tones of 500 Hz and 2 kHz."""


def loudness(log_mel):
    """Event scores: a sigmoid of the level around 500 Hz and 2 kHz."""
    return (1 / (1 + np.exp(-(log_mel[..., list(BINS.values())])))).astype(np.float32)


def frame_by_frame(batch):
    """Probabilities of a batch: events by `loudness`; scenes are the share of valid frames with a loud `low`, and the rest."""
    events = loudness(batch["log_mel"])
    valid = np.arange(CLIP_FRAMES) < batch["valid_frames"][:, None]
    loud = ((events[..., 0] > 0.5) & valid).sum(1) / np.maximum(batch["valid_frames"], 1)
    return np.float32(np.stack([loud, 1 - loud], axis=1)), events


def network(probabilities=frame_by_frame, scenes=("loud", "quiet"), events=tuple(BINS)):
    """The attributes of a model that `predict_recordings` uses."""
    return types.SimpleNamespace(
        mel=MEL, clip_frames=CLIP_FRAMES, scenes=scenes, events=events, probabilities=probabilities,
        config=types.SimpleNamespace(threshold=0.5),
    )  # fmt: skip


class FrameModel(TrainedModel):
    """The same network as a model that the predict command takes."""

    def probabilities(self, batch):
        return frame_by_frame(batch)


def trained_model(**changes):
    """A `FrameModel`; `changes` are fields of `TrainedModel`."""
    fields = dict(
        directory=pathlib.Path("nowhere"), step=0, which="last",
        config=ml_collections.FrozenConfigDict({"threshold": 0.5, "min_clip_share": 0.5}),
        scenes=("loud", "quiet"), events=tuple(BINS), fingerprint="", mel=MEL, clip_frames=CLIP_FRAMES, graphdef=None,
        params={"a": np.ones(2, np.float32)}, batch_stats={}, feature_stats={},
    )  # fmt: skip
    return FrameModel(**fields | changes)


def tones(*events, duration_s=4.0):
    """A recording of tones, from (class, onset, offset, amplitude): a detected event of each class, to within a frame."""
    t = np.arange(round(duration_s * MEL.sample_rate_hz)) / MEL.sample_rate_hz
    hz = {"low": 500, "high": 2000}
    wave = np.zeros(len(t), np.float32)
    for label, onset, offset, amplitude in events:
        wave += np.float32(amplitude * np.sin(2 * np.pi * hz[label] * t) * ((t >= onset) & (t < offset)))
    return wave


def noise(samples, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


def predict_all(model, sources, **settings):
    """All results, by the name of the recording."""
    results = list(streaming.predict_recordings(model, sources, **{"rules": {}, **settings}))
    by_name = {result.source.name if isinstance(result, UnreadableRecording) else result.recording: result for result in results}
    assert len(results) == len(by_name) == len(sources)
    return by_name


def assert_same_prediction(actual, expected, atol=0.0):
    """Compares all fields; arrays of floats and confidences within `atol`."""
    for field in dataclasses.fields(Prediction):
        value, other = getattr(actual, field.name), getattr(expected, field.name)
        if field.name == "detected":
            assert [(e.label, e.onset_s, e.offset_s) for e in value] == [(e.label, e.onset_s, e.offset_s) for e in other]
            confidences = [[event.confidence for event in events] for events in (value, other)]
            np.testing.assert_allclose(*confidences, rtol=0, atol=atol)
        elif isinstance(value, np.ndarray):
            assert value.dtype == other.dtype
            np.testing.assert_allclose(value, other, rtol=0, atol=atol, err_msg=field.name)
        else:
            assert value == other, field.name
