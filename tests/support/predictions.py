"""Predictions and recordings for the tests of pictures and pages."""

import dataclasses

import numpy as np
import soundfile

from mfl_jax.data.annotation import Event
from mfl_jax.data.mel_spectrogram import MelConfig
from mfl_jax.inference.prediction import DetectedEvent, Prediction

MEL = MelConfig(
    sample_rate_hz=8000, window_samples=320, hop_samples=160, fft_samples=512, mel_bins=32, high_hz=4000.0
)  # fmt: skip
DETECTED = (DetectedEvent(0.4, 0.9, "high", 0.8), DetectedEvent(1.2, 1.5, "high", 0.6))
REFERENCE = (Event(0.5, 1.0, "high"), Event(0.1, 0.3, "unknown"), Event(0.2, 0.4, "unknown"))


def make_prediction(duration_s=2.0, scenes=("calm", "busy"), events=("high", "low", "never"), detected=(), **changes):
    """A prediction whose frame scores are the confidence within detected events and 0.02 elsewhere."""
    frames = MEL.frames(round(duration_s * MEL.sample_rate_hz))
    scores = np.full((frames, len(events)), 0.02, np.float32)
    for event in detected:
        scores[round(event.onset_s / 0.02) : round(event.offset_s / 0.02), events.index(event.label)] = event.confidence
    starts_s = np.arange(0, max(duration_s - 0.5, 0.5), 0.5)
    window_scenes = np.tile(np.float32([0.75, 0.25])[: len(scenes)], (len(starts_s), 1))
    prediction = Prediction(
        recording="a.wav", duration_s=duration_s, hop_s=0.02, scenes=tuple(scenes), events=tuple(events),
        scene=window_scenes.mean(0), window_start_s=starts_s, window_end_s=np.minimum(starts_s + 1, duration_s),
        window_scenes=window_scenes, frame_scores=scores, clip_scores=None, detected=tuple(detected), clip_s=1.0, overlap=0.5,
        frequency_range_hz=(0.0, 4000.0),
    )  # fmt: skip
    return dataclasses.replace(prediction, **changes)


def write_noise(file, duration_s=2.0, level=0.1):
    """Writes a recording of noise; returns the file."""
    noise = np.random.default_rng(0).standard_normal(round(duration_s * MEL.sample_rate_hz))
    soundfile.write(file, (level * noise).clip(-1, 1), MEL.sample_rate_hz)
    return file
