"""The prediction for a recording: scenes over time, frame scores and detected events."""

import dataclasses

import numpy as np

from mfl_jax.inference.audio_source import SoundSource


@dataclasses.dataclass(frozen=True)
class DetectedEvent:
    """A detected event: [onset_s, offset_s) in seconds from the start of the recording.

    `confidence` is the mean score of the event over its frames, before any post-processing.
    """

    onset_s: float
    offset_s: float
    label: str
    confidence: float


@dataclasses.dataclass(frozen=True)
class UnreadableRecording:
    """A recording that could not be read, with a one-line reason."""

    source: SoundSource
    reason: str


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """The prediction of a model for a recording.

    Attributes:
      recording: name of the recording: its path below the folder that was searched, its file name, `stdin` or `array`.
      duration_s: length of the recording.
      hop_s: seconds between two frames.
      scenes: scene classes, in the order of the scores; empty if the model was not trained on scenes.
      events: event classes, in the order of the scores; empty if the model was not trained on events.
      scene: probability of each scene over the whole recording, float32 [shape=(S,)]: the mean over its windows, weighted by
        their lengths.
      window_start_s: start of each window, float64 [shape=(N,)]. Windows may overlap.
      window_end_s: end of each window, float64 [shape=(N,)].
      window_scenes: probability of each scene in each window, float32 [shape=(N, S)].
      frame_scores: probability of each event in each frame, float32 [shape=(T, E)]. Memory-mapped for long recordings.
      clip_scores: frame scores as `--mode=evaluate` computes them, from clips that do not overlap, float32 [shape=(T, E)].
        None if they were not requested, or if the clips are not among the windows.
      detected: detected events, sorted by onset.
      clip_s: length of a window in seconds.
      overlap: share of a window that overlaps the next one.
      frequency_range_hz: lowest and highest frequency of the spectrogram.
      warning: one line if audio is missing at the end or the signal is suspicious (scale, silence); empty otherwise.
    """

    recording: str
    duration_s: float
    hop_s: float
    scenes: tuple[str, ...]
    events: tuple[str, ...]
    scene: np.ndarray
    window_start_s: np.ndarray
    window_end_s: np.ndarray
    window_scenes: np.ndarray
    frame_scores: np.ndarray
    clip_scores: np.ndarray | None
    detected: tuple[DetectedEvent, ...]
    clip_s: float
    overlap: float
    frequency_range_hz: tuple[float, float]
    warning: str = ""

    @property
    def scene_label(self) -> str | None:
        """The most probable scene of the whole recording, or None without scenes."""
        return self.scenes[int(self.scene.argmax())] if self.scenes else None

    @property
    def clips(self) -> np.ndarray:
        """Indices of the windows that are clips of a data set: consecutive windows from the start that do not overlap."""
        return np.flatnonzero(np.abs(self.window_start_s / self.clip_s - np.round(self.window_start_s / self.clip_s)) < 1e-6)
