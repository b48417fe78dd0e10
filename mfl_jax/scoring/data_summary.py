"""data.json of an experiment: floors of the scores, and how long each event is active in each scene."""

import json
import pathlib
from typing import Any

import numpy as np

from mfl_jax.data.batching import read_batches
from mfl_jax.data.prepared_dataset import Clips, Dataset
from mfl_jax.runtime import storage
from mfl_jax.scoring import floor_scores

FILE = "data.json"


def write_data_summary(dataset: Dataset, development: Clips, evaluation: Clips, *, folds: bool, workdir: pathlib.Path) -> None:
    """Writes data.json into a work directory unless it is there.

    Args:
      dataset: prepared.
      development: its clips.
      evaluation: its clips.
      folds: whether scores come from cross-validation over the development split.
      workdir: of the experiment.
    """
    file = workdir / FILE
    if file.is_file():
        return
    scored = development if folds else evaluation
    summary = {
        "scenes": dataset.scenes,
        "events": dataset.events,
        "splits": {
            "development": _summarise_split(dataset, development),
            "evaluation": _summarise_split(dataset, evaluation),
        },
        "floors": floor_scores.compute_floors(scored, np.arange(len(scored)), dataset.scenes, dataset.events),
    }
    storage.atomic_write(file, json.dumps(summary, indent=1) + "\n")


def _summarise_split(dataset: Dataset, clips: Clips) -> dict[str, Any]:
    """Returns for each scene its clips, those that count for scenes, its seconds, and the seconds of each event.

    Without scenes, for all clips together. For each event, also the number of recordings that have it.
    """
    counts = floor_scores.count_activity(clips, np.arange(len(clips)), len(dataset.scenes), len(dataset.events))
    clip_counts, scene_clips, frames, active = (count.tolist() for count in counts)
    hop_s = dataset.mel.hop_s
    return {
        "clips": clip_counts,
        "scene_clips": scene_clips,
        "seconds": [count * hop_s for count in frames],
        "active_seconds": [[count * hop_s for count in row] for row in active],
        "event_recordings": _count_recordings(clips, len(dataset.events)),
    }


def _count_recordings(clips: Clips, events: int) -> list[int]:
    """Counts the recordings that have an active frame of each event."""
    names, index = np.unique(clips.recording, return_inverse=True)
    present = np.zeros((len(names), events), bool)
    numbers = np.arange(len(clips))
    batches = read_batches(clips, numbers, floor_scores.CLIPS_AT_ONCE)
    for start, batch in zip(range(0, len(clips), floor_scores.CLIPS_AT_ONCE), batches, strict=True):
        of_batch = index[start : start + floor_scores.CLIPS_AT_ONCE]
        np.logical_or.at(present, of_batch, batch["events"][: len(of_batch)].any(1))
    return present.sum(0).tolist()
