"""Collects the scores of a recording, window by window, and turns them into a prediction."""

from collections.abc import Mapping

import numpy as np

from mfl_jax.inference import postprocessing, windows
from mfl_jax.inference.clip_model import ClipModel
from mfl_jax.inference.prediction import Prediction
from mfl_jax.inference.spill_buffer import SpillBuffer


class RecordingAccumulator:
    """The scores of one recording so far, in bounded memory."""

    def __init__(self, model: ClipModel, stride: int, keep_clips: bool):
        self._model = model
        self._averager = windows.OverlapAverager(model.clip_frames, stride)
        self._frame_scores = SpillBuffer(len(model.events))
        clips_are_windows = model.clip_frames % stride == 0
        self._clip_scores = SpillBuffer(len(model.events)) if keep_clips and clips_are_windows else None
        self._bounds: list[tuple[int, int]] = []
        self._window_scenes: list[np.ndarray] = []

    def add(self, window: windows.Window, scene: np.ndarray, events: np.ndarray) -> float:
        """Adds the scores of the next window; returns the seconds of audio in it that no earlier window held.

        Args:
          window: the window.
          scene: probability of each scene [shape=(S,)].
          events: probability of each event in each frame [shape=(clip_frames, E)].
        """
        end = window.first + window.valid
        previous_end = self._bounds[-1][1] if self._bounds else 0
        self._bounds.append((window.first, end))
        self._window_scenes.append(scene)
        self._frame_scores.write(self._averager.add(events, window.valid))
        if self._clip_scores and window.first % self._model.clip_frames == 0:
            self._clip_scores.write(events[: window.valid])
        return (end - previous_end) * self._model.mel.hop_s

    def close(self) -> None:
        """Drops the scores of a recording that will not be finished."""
        self._frame_scores.close()
        if self._clip_scores:
            self._clip_scores.close()

    def finish(
        self, name: str, duration_s: float, rules: Mapping[str, postprocessing.Rule], overlap: float
    ) -> Prediction:  # fmt: skip
        """Returns the prediction for the whole recording."""
        self._frame_scores.write(self._averager.finish())
        scores, hop_s = self._frame_scores.read(), self._model.mel.hop_s
        bounds, window_scenes = np.array(self._bounds), np.stack(self._window_scenes)
        lengths = bounds[:, 1] - bounds[:, 0]
        return Prediction(
            recording=name,
            duration_s=duration_s,
            hop_s=hop_s,
            scenes=self._model.scenes,
            events=self._model.events,
            scene=np.average(window_scenes, axis=0, weights=lengths).astype(np.float32),
            window_start_s=bounds[:, 0] * hop_s,
            window_end_s=np.minimum(bounds[:, 1] * hop_s, duration_s),
            window_scenes=window_scenes,
            frame_scores=scores,
            clip_scores=self._clip_scores.read() if self._clip_scores else None,
            detected=postprocessing.detect_events(scores, self._model.events, rules, hop_s=hop_s, duration_s=duration_s),
            clip_s=self._model.clip_frames * hop_s,
            overlap=overlap,
            frequency_range_hz=(self._model.mel.low_hz, self._model.mel.high_hz),
        )
