"""Probabilities for the clips of a prepared data set, clip by clip or joined to recordings."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from mfl_jax.data.batching import read_batches
from mfl_jax.data.prepared_dataset import Clips, Dataset
from mfl_jax.errors import InputError
from mfl_jax.inference.streaming import batch_size
from mfl_jax.inference.trained_model import TrainedModel


class ClipProbabilities(NamedTuple):
    """A clip with its labels and the model's probabilities.

    Attributes:
      number: of the clip in its split.
      labels: `scene` (an int, -1 if not annotated), `events` bool [shape=(valid frames, E)], `valid_frames`, and `scene_mask` and
        `event_mask`, whether the scene and the events count.
      scene: float32 [shape=(S,)]; None if the model was not trained on scenes.
      event: float32 [shape=(valid frames, E)]; None if the model was not trained on events.
    """

    number: int
    labels: dict[str, Any]
    scene: np.ndarray | None
    event: np.ndarray | None


def check_classes(model: TrainedModel, dataset: Dataset) -> None:
    """Raises an InputError if a model was trained on other classes, spectrograms or clips than a data set has."""
    for kind in ("scenes", "events"):
        if getattr(model, kind) and getattr(model, kind) != getattr(dataset, kind):
            raise InputError(f"{model.directory} was trained on other {kind} than {dataset.directory} has")
    if model.mel != dataset.mel or model.clip_frames != dataset.clip_frames:
        raise InputError(f"{model.directory} was trained on other spectrograms or clips than {dataset.directory} has")


def compute_clip_probabilities(model: TrainedModel, clips: Clips, numbers: np.ndarray) -> Iterator[ClipProbabilities]:
    """Yields the probabilities of clips, in the order of their numbers."""
    remaining = iter(numbers)
    for batch in read_batches(clips, numbers, batch_size()):
        inputs = {key: batch[key] for key in ("log_mel", "valid_frames", "clip_mask")}
        scene, event = jax.device_get(model.probabilities(inputs))
        for row in np.flatnonzero(batch["clip_mask"]):
            valid = int(batch["valid_frames"][row])
            labels = {
                "scene": int(batch["scene"][row]), "events": batch["events"][row, :valid],
                "valid_frames": valid, "scene_mask": bool(batch["scene_mask"][row]), "event_mask": bool(batch["event_mask"][row]),
            }  # fmt: skip
            yield ClipProbabilities(
                number=int(next(remaining)),
                labels=labels,
                scene=None if scene is None else scene[row],
                event=None if event is None else event[row, :valid],
            )


def compute_recording_probabilities(
    model: TrainedModel, clips: Clips, numbers: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Computes the event probabilities of the recordings that clips belong to, without recordings whose events are not annotated.

    Returns:
      Path of a recording -> probabilities float32 and labels bool, both [shape=(T, E)].

    Raises:
      InputError: no recording is left.
    """
    numbers = numbers[clips.event_mask[numbers]]
    if not len(numbers):
        raise InputError("no recording of these clips has its events annotated, so events can't be scored")
    parts: dict[str, list[tuple[float, np.ndarray, np.ndarray]]] = {}
    for clip in compute_clip_probabilities(model, clips, numbers):
        if clip.event is None:
            raise ValueError(f"{model.directory} was not trained on events")
        part = (clips.clip_start_s[clip.number], clip.event, clip.labels["events"])
        parts.setdefault(str(clips.recording[clip.number]), []).append(part)
    recordings = {}
    for recording, unordered in parts.items():
        ordered = sorted(unordered, key=lambda part: part[0])
        probabilities, labels = (np.concatenate([part[column] for part in ordered]) for column in (1, 2))
        recordings[recording] = (probabilities, labels)
    return recordings
