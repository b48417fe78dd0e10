"""The counts behind a run's scores, recording by recording, in a file beside results.json."""

import io
import pathlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mfl_jax.data.prepared_dataset import Clips
from mfl_jax.errors import InputError
from mfl_jax.runtime import storage

FILE = "recording_counts.npz"

EVENTS_ANNOTATED = "events_annotated"
"""Name of the array that says of which recordings the events are annotated."""

Counts = dict[str, np.ndarray]
"""Counts of R recordings, as `count_recordings` returns them."""


def count_recordings(by_clip: Mapping, clips: Clips) -> Counts:
    """Adds up the counts of the clips of each recording.

    Args:
      by_clip: of one run, from `evaluation.accumulate_counts`.
      clips: the split that was scored.

    Returns:
      `recording`: the paths, str [shape=(R,)], sorted. If scenes were counted, `scene`: the true scene of each recording, -1 if
      not annotated, int32 [shape=(R,)], and `answers`: its clips by predicted scene, int32 [shape=(R, S)]. If events were
      counted, everything that `metrics.frame_counts` returns, int32, with a leading axis of recordings, and `events_annotated`,
      bool [shape=(R,)].
    """
    counted = by_clip["number"] >= 0  # the others are padding
    names, index = np.unique(clips.recording[by_clip["number"][counted]], return_inverse=True)

    def add_up(leaf: np.ndarray) -> np.ndarray:
        total = np.zeros((len(names), *leaf.shape[1:]), np.int32)
        np.add.at(total, index, leaf[counted].astype(np.int32))
        return total

    counts: Counts = {"recording": names}
    if "scene" in by_clip:
        counts["scene"] = np.zeros(len(names), np.int32)
        counts["scene"][index] = by_clip["scene"]["true"][counted]
        counts["answers"] = add_up(by_clip["scene"]["answers"])
    if "event" in by_clip:
        counts |= jax.tree.map(add_up, dict(by_clip["event"]))
        counts[EVENTS_ANNOTATED] = add_up(clips.event_mask[np.where(counted, by_clip["number"], 0)]) > 0
    return counts


def select_annotated(counts: Counts, task: str) -> Counts | None:
    """Returns the counts of a task, `scene` or `event`, of the recordings that count for it; None if it was not counted.

    Counts of earlier versions don't say whose events are annotated: all recordings count then.
    """
    if task == "scene":
        names = ["scene", "answers"]
    else:
        names = [name for name in counts if name not in ("recording", "scene", "answers", EVENTS_ANNOTATED)]
    if not names or names[0] not in counts:
        return None
    count = len(counts["recording"])
    kept = counts["answers"].any(1) if task == "scene" else counts.get(EVENTS_ANNOTATED, np.ones(count, bool))
    return {name: counts[name][kept] for name in ("recording", *names)}


def sum_recordings(counts: Mapping[str, np.ndarray]) -> dict[str, dict[str, list | int]]:
    """Returns the sums over recordings in the form of `counts` in results.json."""
    arrays = dict(counts)
    del arrays["recording"]
    arrays.pop(EVENTS_ANNOTATED, None)
    total: dict[str, dict[str, list | int]] = {}
    if "scene" in arrays:
        scene, answers = arrays.pop("scene"), arrays.pop("answers")
        confusion = np.zeros((answers.shape[1],) * 2, np.int64)
        np.add.at(confusion, scene, answers)  # a recording without a scene, -1, has no answers
        total["scene"] = {"confusion": confusion.tolist()}
    if arrays:
        total["event"] = {name: array.sum(0, dtype=np.int64).tolist() for name, array in arrays.items()}
    return total


def join_recordings(parts: Sequence[Counts | None]) -> Counts | None:
    """Joins the recordings of the folds of a cross-validation, sorted by path; None if those of a fold are missing."""
    present = [part for part in parts if part is not None]
    if len(present) < len(parts):
        return None
    joined = {
        name: np.concatenate([part[name] for part in present]) for name in present[0] if all(name in part for part in present)
    }
    order = np.argsort(joined["recording"], kind="stable")
    return {name: array[order] for name, array in joined.items()}


def write_counts(folder: pathlib.Path, counts: Counts) -> None:
    """Writes the counts of a run into its work directory atomically."""
    content = io.BytesIO()
    arrays: dict[str, Any] = {**counts}
    np.savez_compressed(content, **arrays)
    storage.atomic_write(folder / FILE, content.getvalue())


def read_counts(folder: pathlib.Path, results: Mapping) -> Counts | None:
    """Reads the counts of a run.

    Args:
      folder: work directory of the run.
      results: its results.json.

    Returns:
      The counts; None if there is no file, as after an evaluation by an earlier version, or if its sums are not those of
      results.json, so that it comes from another evaluation.

    Raises:
      InputError: the file is damaged.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as stored:
            counts = dict(stored)
        total = sum_recordings(counts)
    except (ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{file}: not readable ({error}); delete it to do without an interval over recordings") from None
    return counts if total == results.get("counts") else None
