"""The scores of all clips of a prepared data set, clip by clip and recording by recording."""

from collections.abc import Iterator

import jax
import numpy as np

from mfl_jax.data.batching import read_batches
from mfl_jax.data.prepared_dataset import Clips, Dataset
from mfl_jax.errors import InputError
from mfl_jax.inference.streaming import batch_size
from mfl_jax.inference.trained_model import TrainedModel


def check_classes(model: TrainedModel, dataset: Dataset) -> None:
    """Raises an InputError where a model was trained on other classes, spectrograms or clips than a data set has."""
    for kind in ("scenes", "events"):
        if getattr(model, kind) and getattr(model, kind) != getattr(dataset, kind):
            raise InputError(f"{model.directory} was trained on other {kind} than {dataset.directory} has")
    if model.mel != dataset.mel or model.clip_frames != dataset.clip_frames:
        raise InputError(f"{model.directory} was trained on other spectrograms or clips than {dataset.directory} has")


def clip_probabilities(
    model: TrainedModel, clips: Clips, numbers: np.ndarray
) -> Iterator[tuple[int, dict, np.ndarray | None, np.ndarray | None]]:
    """Yields of each clip its number, its labels, its scene scores [shape=(S,)] and its event scores [shape=(valid frames, E)].

    The labels are `scene` (an int), `events` bool [shape=(valid frames, E)] and `valid_frames`. Scores of a task that the model
    was not trained on are None.
    """
    waiting = iter(numbers)
    for batch in read_batches(clips, numbers, batch_size()):
        scene, event = jax.device_get(model.probabilities({k: batch[k] for k in ("log_mel", "valid_frames", "clip_mask")}))
        for row in np.flatnonzero(batch["clip_mask"]):
            valid = int(batch["valid_frames"][row])
            labels = {"scene": int(batch["scene"][row]), "events": batch["events"][row, :valid], "valid_frames": valid}
            yield (
                int(next(waiting)), labels,
                None if scene is None else scene[row], None if event is None else event[row, :valid],
            )  # fmt: skip


def recording_probabilities(model: TrainedModel, clips: Clips, numbers: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Event scores float32 and labels bool of whole recordings, both [shape=(T, E)], by the path of the recording."""
    parts: dict[str, list] = {}
    for number, labels, _, event in clip_probabilities(model, clips, numbers):
        parts.setdefault(str(clips.recording[number]), []).append((clips.clip_start_s[number], event, labels["events"]))
    joined = {}
    for recording, of_recording in parts.items():
        of_recording.sort(key=lambda part: part[0])
        joined[recording] = tuple(np.concatenate([part[column] for part in of_recording]) for column in (1, 2))
    return joined
