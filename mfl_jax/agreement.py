"""How predictions agree with a label list: the paper's scores of recordings, as evaluating a data set computes them."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from mfl_jax import annotations, metrics, postprocessing
from mfl_jax.annotations import Recording
from mfl_jax.errors import InputError
from mfl_jax.prediction import Prediction
from mfl_jax.trained import TrainedModel


@dataclasses.dataclass
class Agreement:
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
            active = annotations.events_to_frames(
                reference.events, model.events, len(prediction.frame_scores),
                hop_samples=rate.hop_samples, sample_rate_hz=rate.sample_rate_hz,
            )  # fmt: skip
            hop_s = prediction.hop_s
            detected = postprocessing.detected_frames(prediction.frame_scores, model.events, self.rules, hop_s)
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
    recordings = annotations.read_label_list(file, scenes=model.scenes or None, events=model.events or None)
    return {recording.path: recording for recording in recordings}


def match(names: Sequence[str], reference: Mapping[str, Recording]) -> dict[str, Recording]:
    """Finds the recording of the reference that a predicted one is.

    Args:
      names: of predicted recordings. reference: by path.

    Returns:
      name -> recording. A name means the path that ends with it, folder by folder, or that it ends with; the suffix of the file
      does not count. Names without a match are left out.

    Raises:
      InputError: a name means more than one path.
    """

    def parts(path):
        return pathlib.PurePosixPath(path).with_suffix("").parts

    by_stem: dict[str, list[Recording]] = {}
    for path, recording in reference.items():
        by_stem.setdefault(parts(path)[-1], []).append(recording)
    found = {}
    for name in names:
        own = parts(name)
        fitting = []
        for recording in by_stem.get(own[-1], []):
            other = parts(recording.path)
            length = min(len(own), len(other))
            if own[-length:] == other[-length:]:
                fitting.append(recording)
        if len(fitting) > 1:
            exact = [recording for recording in fitting if recording.path == name]
            if len(exact) != 1:
                both = " or ".join(recording.path for recording in fitting[:2])
                raise InputError(f"{name} may be {both} of the reference; give the folder above them")
            fitting = exact
        if fitting:
            found[name] = fitting[0]
    return found
