"""How predictions agree with a label list: the paper's scores of recordings, as evaluating a data set computes them."""

import dataclasses
import pathlib
from collections.abc import Mapping

import jax
import numpy as np

from mfl_jax import metrics
from mfl_jax.data import annotation, label_list
from mfl_jax.data.annotation import Recording
from mfl_jax.inference import postprocessing
from mfl_jax.inference.prediction import Prediction
from mfl_jax.inference.trained_model import TrainedModel


@dataclasses.dataclass
class ReferenceScores:
    """Adds up counts over recordings; ask `scores` at the end.

    Two ways of listening are counted side by side. `clips` is that of `--mode=evaluate`: clips that do not overlap, one
    threshold, a scene a clip. `recordings` is what was predicted: overlapping windows, post-processing, a scene a recording.
    """

    model: TrainedModel
    reference: Mapping[str, Recording]
    rules: Mapping[str, postprocessing.Rule]
    counts: dict = dataclasses.field(default_factory=dict)
    scored: int = 0

    def add(self, prediction: Prediction, reference: Recording) -> None:
        """Counts a recording."""
        self.scored += 1
        model, rate = self.model, self.model.mel
        if model.scenes:
            answers = {"recordings": prediction.scene[None], "clips": prediction.window_scenes[prediction.clips]}
            if prediction.clip_scores is None:
                del answers["clips"]
            for way, probabilities in answers.items():
                true = np.full(len(probabilities), model.scenes.index(reference.scene))
                found = metrics.scene_counts(probabilities.argmax(1), true, classes=len(model.scenes))
                self._count(way, "scene", found)
        if model.events:
            active = annotation.events_to_frames(
                reference.events, model.events, len(prediction.frame_scores),
                hop_samples=rate.hop_samples, sample_rate_hz=rate.sample_rate_hz,
            )  # fmt: skip
            hop_s = prediction.hop_s
            detected = postprocessing.mark_detected_frames(prediction.frame_scores, model.events, self.rules, hop_s)
            self._count("recordings", "event", metrics.frame_counts(detected, active))
            if prediction.clip_scores is not None:
                detected = prediction.clip_scores >= np.float32(model.config.threshold)
                self._count("clips", "event", metrics.frame_counts(detected, active))

    def _count(self, way, task, found):
        tasks = self.counts.setdefault(way, {})
        tasks[task] = jax.tree.map(np.add, tasks[task], found) if task in tasks else found

    def scores(self) -> dict:
        """{"clips": {"scene": ..., "event": ...}, "recordings": ...}, each as in results.json."""
        ratios = {"scene": metrics.scene_ratios, "event": metrics.frame_ratios}
        return {way: {task: ratios[task](found) for task, found in tasks.items()} for way, tasks in self.counts.items()}


def read_reference(file: str | pathlib.Path, model: TrainedModel) -> dict[str, Recording]:
    """Reads the label list that predictions are compared with.

    Raises:
      InputError: it is no label list, or names scenes or events that the model does not know.
    """
    recordings = label_list.read_label_list(file, scenes=model.scenes or None, events=model.events or None)
    return {recording.path: recording for recording in recordings}
