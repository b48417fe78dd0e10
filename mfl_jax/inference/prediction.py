"""What was heard in a recording: scenes over time, frame scores, events."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class DetectedEvent:
    """An event that was detected: [onset_s, offset_s) seconds from the start of its recording.

    `confidence` is the mean score of the event over its frames, before any post-processing.
    """

    onset_s: float
    offset_s: float
    label: str
    confidence: float


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """What a model heard in a recording.

    Attributes:
      recording: its name: the path below the folder that was given, or of the file itself; `stdin` for the standard input.
      duration_s: its length.
      hop_s: seconds between two frames.
      scenes, events: the classes of the scores; empty for a task that the model was not trained on.
      scene: probability of each scene over the whole recording, float32 [shape=(S,)]: the mean over its windows, by their length.
      window_start_s, window_end_s: float64 [shape=(N,)], when each window begins and ends; they overlap.
      window_scenes: probability of each scene in each window, float32 [shape=(N, S)].
      frame_scores: probability of each event in each frame, float32 [shape=(T, E)]; for long recordings in a file, not in memory.
      clip_scores: the same as `--mode=evaluate` computes them, each clip by itself, of the shape of `frame_scores`; None where
        they were not asked for, or where clips are not among the windows.
      detected: the events, by onset.
      clip_s: seconds of a window. overlap: share of it that the next one has in common with it.
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

    @property
    def scene_label(self) -> str | None:
        """The most probable scene of the whole recording; None without scenes."""
        return self.scenes[int(self.scene.argmax())] if self.scenes else None

    @property
    def clips(self) -> np.ndarray:
        """The numbers of the windows that are clips of a data set: those that do not overlap, from the start."""
        return np.flatnonzero(np.abs(self.window_start_s / self.clip_s - np.round(self.window_start_s / self.clip_s)) < 1e-6)
