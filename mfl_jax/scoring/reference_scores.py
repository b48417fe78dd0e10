"""Scores of predictions against a label list of their recordings."""

import collections
import dataclasses
import difflib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mfl_jax import metrics
from mfl_jax.data import annotation, event_list, spelling
from mfl_jax.data.annotation import Recording
from mfl_jax.data.scene_mask import scene_mask
from mfl_jax.errors import InputError, join_first, warn
from mfl_jax.inference import postprocessing
from mfl_jax.inference.prediction import Prediction
from mfl_jax.inference.trained_model import TrainedModel


@dataclasses.dataclass
class ReferenceScores:
    """Sums counts over recordings, in two ways; `scores` returns the ratios.

    Classes of the reference that the model does not know are not scored.

    `clips`, as `--mode=evaluate` counts: clips without overlap, one threshold, one scene per clip that is long enough.
    `recordings`, as predicted: overlapping windows, post-processing, one scene per recording.

    Attributes:
      model: the model that predicts.
      reference: path of a recording -> its labels.
      rules: post-processing of the events.
      counts: way of counting -> task -> counts of `metrics`.
      scored: number of recordings added.
      without_scene, without_events: number of these that are not scored for a task of the model, because the reference does not
        annotate it or names a scene that the model does not know.
    """

    model: TrainedModel
    reference: Mapping[str, Recording]
    rules: Mapping[str, postprocessing.Rule]
    counts: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    scored: int = 0
    without_scene: int = 0
    without_events: int = 0

    def add(self, prediction: Prediction, reference: Recording) -> dict[str, dict[str, Any]]:
        """Adds a recording, for the tasks that it is annotated for; returns its counts in lists and numbers, for `add_counts`."""
        ways: dict[str, dict[str, Any]] = {}
        if reference.scene in self.model.scenes:
            for way, counts in self._count_scenes(prediction, self.model.scenes.index(reference.scene)):
                ways.setdefault(way, {})["scene"] = counts
        if self.model.events and reference.events_annotated:
            for way, counts in self._count_events(prediction, reference):
                ways.setdefault(way, {})["event"] = counts
        lists = jax.tree.map(lambda count: np.asarray(count).tolist(), ways)
        self.add_counts(lists)
        return lists

    def add_counts(self, ways: Mapping[str, Mapping[str, Any]]) -> None:
        """Adds a recording by what `add` returned for it, perhaps in an earlier call."""
        tasks_scored = ways.get("recordings", {})
        self.scored += 1
        self.without_scene += bool(self.model.scenes) and "scene" not in tasks_scored
        self.without_events += bool(self.model.events) and "event" not in tasks_scored
        for way, tasks in ways.items():
            sums = self.counts.setdefault(way, {})
            for task, counts in tasks.items():
                zeros = dict.fromkeys(counts, 0)
                sums[task] = {name: np.add(sums.get(task, zeros)[name], count) for name, count in counts.items()}

    def scores(self) -> dict[str, dict[str, Any]]:
        """Returns {"clips": {"scene": ..., "event": ...}, "recordings": ...}, each as in results.json."""
        ratios = {"scene": metrics.scene_ratios, "event": metrics.frame_ratios}
        return {way: {task: ratios[task](counts) for task, counts in tasks.items()} for way, tasks in self.counts.items()}

    def lacks_events(self) -> bool:
        """Whether event scores are 0 of 0: the recordings have no event and none was detected."""
        counts = [tasks["event"] for tasks in self.counts.values() if "event" in tasks]
        return bool(counts) and not any(int(count["active"]) or int(np.sum(count["fp"])) for count in counts)

    def _count_scenes(self, prediction: Prediction, scene: int) -> Iterator[tuple[str, dict]]:
        yield "recordings", self._count_answers(prediction.scene[None], scene)
        if prediction.clip_scores is not None:
            yield "clips", self._count_answers(prediction.window_scenes[self._find_scene_clips(prediction)], scene)

    def _find_scene_clips(self, prediction: Prediction) -> np.ndarray:
        """Returns the indices of the windows that are clips whose scene counts."""
        start_s, clip_frames = prediction.window_start_s[prediction.clips], self.model.clip_frames
        first = np.round(start_s / prediction.hop_s).astype(int)
        valid_frames = np.minimum(len(prediction.frame_scores) - first, clip_frames)
        share = self.model.config.min_clip_share
        return prediction.clips[scene_mask(valid_frames, start_s, clip_frames=clip_frames, min_clip_share=share)]

    def _count_answers(self, probabilities: np.ndarray, scene: int) -> dict:
        true = np.full(len(probabilities), scene)
        return metrics.scene_counts(probabilities.argmax(1), true, classes=len(self.model.scenes))

    def _count_events(self, prediction: Prediction, reference: Recording) -> Iterator[tuple[str, dict]]:
        mel, events = self.model.mel, self.model.events
        known = [event for event in reference.events if event.label in events]
        active = annotation.events_to_frames(
            known, events, len(prediction.frame_scores),
            hop_samples=mel.hop_samples, sample_rate_hz=mel.sample_rate_hz,
        )  # fmt: skip
        detected = postprocessing.mark_detected_frames(prediction.frame_scores, events, self.rules, prediction.hop_s)
        yield "recordings", metrics.frame_counts(detected, active)
        if prediction.clip_scores is not None:
            detected = prediction.clip_scores >= np.float32(self.model.config.threshold)
            yield "clips", metrics.frame_counts(detected, active)


def read_reference(file: str | pathlib.Path, model: TrainedModel) -> dict[str, Recording]:
    """Reads what predictions are compared with: any list or folder of lists of `event_list.read_recordings`.

    Known scenes and events get the spelling of the model. Unknown ones stay as they are, and a warning names them.

    Raises:
      InputError: a list is invalid, or has neither a scene nor an event that the model knows.
    """
    recordings = [_spell_as_model(recording, model) for recording in event_list.read_recordings(file)]
    scenes = collections.Counter(recording.scene for recording in recordings) if model.scenes else collections.Counter()
    events = collections.Counter(event.label for recording in recordings for event in recording.events if model.events)
    unlabelled = scenes.pop("", 0)
    known = sum(scenes[label] for label in model.scenes) + sum(events[label] for label in model.events)
    if not known and (scenes or events):
        labels = ", ".join((*model.scenes, *model.events))
        raise InputError(f"{file}: the model knows none of its scenes and events; it knows {labels}")
    if unlabelled and not model.events:
        raise InputError(f"{file}: names no scenes, and the model knows no events; give a list with scenes")
    _warn_of_unknown(file, "scene", "recordings", scenes, model.scenes)
    _warn_of_unknown(file, "event", "events", events, model.events)
    return {recording.path: recording for recording in recordings}


def _spell_as_model(recording: Recording, model: TrainedModel) -> Recording:
    events = tuple(
        dataclasses.replace(event, label=spelling.find_label(event.label, model.events) or event.label)
        for event in recording.events
    )  # fmt: skip
    return dataclasses.replace(
        recording, scene=spelling.find_label(recording.scene, model.scenes) or recording.scene, events=events
    )  # fmt: skip


def _warn_of_unknown(
    file: str | pathlib.Path, kind: str, things: str, counts: Mapping[str, int], known: Sequence[str]
) -> None:  # fmt: skip
    """Names the labels that the model does not know, how often each occurs, and the known one that is similar."""
    texts = []
    for label, count in counts.items():
        if label not in known:
            similar = difflib.get_close_matches(label, known, 1)
            texts.append(f"{label!r} ({count}{f'; did you mean {similar[0]!r}?' if similar else ''})")
    if texts:
        total = sum(count for label, count in counts.items() if label not in known)
        warn(
            f"{file}: the model does not know the {kind}{'s' * (len(texts) > 1)} {join_first(texts)}; {total} of "
            f"{sum(counts.values())} {things} are not scored"
        )
