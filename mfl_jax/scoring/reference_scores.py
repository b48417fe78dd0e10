"""Scores of predictions against a label list of their recordings."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mfl_jax import metrics
from mfl_jax.data import annotation, event_list
from mfl_jax.data.annotation import Recording
from mfl_jax.data.scene_mask import scene_mask
from mfl_jax.inference import postprocessing
from mfl_jax.inference.prediction import Prediction
from mfl_jax.inference.trained_model import TrainedModel


@dataclasses.dataclass
class ReferenceScores:
    """Sums counts over recordings, in two ways; `scores` returns the ratios.

    `clips`, as `--mode=evaluate` counts: clips without overlap, one threshold, one scene per clip that is long enough.
    `recordings`, as predicted: overlapping windows, post-processing, one scene per recording.

    Attributes:
      model: the model that predicts.
      reference: path of a recording -> its labels.
      rules: post-processing of the events.
      counts: way of counting -> task -> counts of `metrics`.
      scored: number of recordings added.
      without_scene, without_events: number of these that the reference does not annotate for a task of the model.
    """

    model: TrainedModel
    reference: Mapping[str, Recording]
    rules: Mapping[str, postprocessing.Rule]
    counts: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    scored: int = 0
    without_scene: int = 0
    without_events: int = 0

    def add(self, prediction: Prediction, reference: Recording) -> None:
        """Adds a recording, for the tasks that it is annotated for."""
        self.scored += 1
        self.without_scene += bool(self.model.scenes and not reference.scene)
        self.without_events += bool(self.model.events and not reference.events_annotated)
        if self.model.scenes and reference.scene:
            self._add_scenes(prediction, self.model.scenes.index(reference.scene))
        if self.model.events and reference.events_annotated:
            self._add_events(prediction, reference)

    def scores(self) -> dict[str, dict[str, Any]]:
        """Returns {"clips": {"scene": ..., "event": ...}, "recordings": ...}, each as in results.json."""
        ratios = {"scene": metrics.scene_ratios, "event": metrics.frame_ratios}
        return {way: {task: ratios[task](counts) for task, counts in tasks.items()} for way, tasks in self.counts.items()}

    def lacks_events(self) -> bool:
        """Whether event scores are 0 of 0: the recordings have no event and none was detected."""
        counts = [tasks["event"] for tasks in self.counts.values() if "event" in tasks]
        return bool(counts) and not any(int(count["active"]) or int(np.sum(count["fp"])) for count in counts)

    def _add_scenes(self, prediction: Prediction, scene: int) -> None:
        self._add_scene_answers("recordings", prediction.scene[None], scene)
        if prediction.clip_scores is not None:
            self._add_scene_answers("clips", prediction.window_scenes[self._find_scene_clips(prediction)], scene)

    def _find_scene_clips(self, prediction: Prediction) -> np.ndarray:
        """Returns the indices of the windows that are clips whose scene counts."""
        start_s, clip_frames = prediction.window_start_s[prediction.clips], self.model.clip_frames
        first = np.round(start_s / prediction.hop_s).astype(int)
        valid_frames = np.minimum(len(prediction.frame_scores) - first, clip_frames)
        share = self.model.config.min_clip_share
        return prediction.clips[scene_mask(valid_frames, start_s, clip_frames=clip_frames, min_clip_share=share)]

    def _add_scene_answers(self, way: str, probabilities: np.ndarray, scene: int) -> None:
        true = np.full(len(probabilities), scene)
        counts = metrics.scene_counts(probabilities.argmax(1), true, classes=len(self.model.scenes))
        self._add_counts(way, "scene", counts)

    def _add_events(self, prediction: Prediction, reference: Recording) -> None:
        mel, events = self.model.mel, self.model.events
        active = annotation.events_to_frames(
            reference.events, events, len(prediction.frame_scores),
            hop_samples=mel.hop_samples, sample_rate_hz=mel.sample_rate_hz,
        )  # fmt: skip
        detected = postprocessing.mark_detected_frames(prediction.frame_scores, events, self.rules, prediction.hop_s)
        self._add_counts("recordings", "event", metrics.frame_counts(detected, active))
        if prediction.clip_scores is not None:
            detected = prediction.clip_scores >= np.float32(self.model.config.threshold)
            self._add_counts("clips", "event", metrics.frame_counts(detected, active))

    def _add_counts(self, way: str, task: str, counts: dict) -> None:
        tasks = self.counts.setdefault(way, {})
        tasks[task] = jax.tree.map(np.add, tasks[task], counts) if task in tasks else counts


def read_reference(file: str | pathlib.Path, model: TrainedModel) -> dict[str, Recording]:
    """Reads what predictions are compared with: any list or folder of lists of `event_list.read_recordings`.

    Raises:
      InputError: a list is invalid, or has scenes or events that the model does not know.
    """
    vocabularies = event_list.Wanted(scenes=model.scenes or None, events=model.events or None)
    return {recording.path: recording for recording in event_list.read_recordings(file, vocabularies)}
