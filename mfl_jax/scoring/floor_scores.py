"""Floors: the scores of systems that ignore the audio, shown next to every result."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mfl_jax import metrics
from mfl_jax.data.annotation import Recording
from mfl_jax.data.batching import read_batches
from mfl_jax.data.prepared_dataset import Clips, Dataset
from mfl_jax.errors import InputError, warn
from mfl_jax.frame_mask import frame_mask

CLIPS_AT_ONCE = 64
KEYS = ("micro_f", "macro_f", "error_rate")
"""The scores of a floor of events."""
_count_answers = jax.jit(
    jax.vmap(jax.vmap(metrics.frame_counts, in_axes=(0, None, None)), in_axes=(None, 0, 0))  # of each clip and each answer
)


class Activity(NamedTuple):
    """Counts of each scene, int64. Clips whose scene is not annotated are left out.

    Attributes:
      clips: its clips [shape=(S,)].
      scene_clips: those that count for scenes [shape=(S,)].
      frames: its valid frames [shape=(S,)]; if there are events, only those whose events are annotated.
      active: the ones of `frames` in which each event is active [shape=(S, E)].
    """

    clips: np.ndarray
    scene_clips: np.ndarray
    frames: np.ndarray
    active: np.ndarray


def count_activity(clips: Clips, numbers: np.ndarray, scenes: int, events: int) -> Activity:
    """Counts clips and frames of each scene. A data set without scenes is counted as one scene.

    Args:
      clips: a split.
      numbers: the clips to count.
      scenes: number of scenes, S; 0 counts as 1.
      events: number of events, E.
    """
    rows = max(scenes, 1)
    counts = Activity(*(np.zeros(shape, np.int64) for shape in (rows, rows, rows, (rows, events))))
    for batch in read_batches(clips, numbers, CLIPS_AT_ONCE):
        batch = {key: array[batch["scene"] >= 0] for key, array in batch.items()} if scenes else batch
        valid = _mask_frames(batch) & (batch["event_mask"][:, None] | (events == 0))
        np.add.at(counts.clips, batch["scene"], batch["clip_mask"])
        np.add.at(counts.scene_clips, batch["scene"], batch["scene_mask"])
        np.add.at(counts.frames, batch["scene"], valid.sum(1))
        np.add.at(counts.active, batch["scene"], (batch["events"] & valid[..., None]).sum(1))
    return counts


def compute_floors(clips: Clips, numbers: np.ndarray, scenes: tuple[str, ...], events: tuple[str, ...]) -> dict[str, Any]:
    """Computes the scores of systems that ignore the audio.

    Args:
      clips: a split.
      numbers: the clips to score.
      scenes: names of the scenes.
      events: names of the events.

    Returns:
      {"scene": {"majority": ...}, "event": {"all_off": ..., "always_on": ..., "oracle_scene": ...}}: always the most frequent
      scene; no event ever; all events always; and, knowing the true scene of each clip, always the events that are active in
      most frames of that scene (`detected` names them; for a clip without a scene, those of all scenes). Without scenes, `scene`
      and `oracle_scene` are missing; without events, `event`. A task that no clip is annotated for scores 0, with a warning.
    """
    _warn_of_unannotated(clips, numbers, scenes, events)
    counts = count_activity(clips, numbers, len(scenes), len(events))
    floors: dict[str, Any] = {}
    if scenes:
        majority = int(counts.scene_clips.argmax())
        confusion = np.zeros((len(scenes), len(scenes)), np.int64)
        confusion[:, majority] = counts.scene_clips
        ratios = metrics.scene_ratios({"confusion": confusion})
        floors["scene"] = {"majority": {"answer": scenes[majority], "micro_f": ratios["micro_f"], "macro_f": ratios["macro_f"]}}
    if events:
        usual = counts.active * 2 > counts.frames[:, None]
        floors["event"] = {
            "all_off": _score_fixed_answers(clips, numbers, np.zeros_like(usual)),
            "always_on": _score_fixed_answers(clips, numbers, np.ones_like(usual)),
        }
        if scenes:
            names = {scene: [events[m] for m in np.flatnonzero(usual[n])] for n, scene in enumerate(scenes) if usual[n].any()}
            floors["event"]["oracle_scene"] = {**_score_fixed_answers(clips, numbers, usual), "detected": names}
    return floors


def prepare_floors(dataset: Dataset, clips: Clips, numbers: np.ndarray) -> Callable[[Mapping], dict[str, Any]]:
    """Computes the floors of clips, and prepares those that depend on the scenes a run predicts.

    Args:
      dataset: the data set.
      clips: one of its splits.
      numbers: the clips to score.

    Returns:
      A function that takes the `by_clip` of a run, from `evaluation.accumulate_counts`, and returns the result of
      `compute_floors` with two more floors of `event`, if there are scenes: always all events that occur in the scene of the clip
      in the recordings of the development split that are not scored. In `events_of_true_scene` that is the true scene; a clip
      without one has the events that occur in every scene. In `events_of_predicted_scene` it is the scene that the run predicts
      for the clip, if it predicts scenes. Both are missing, with a warning, if an older version prepared the data set.
    """
    floors = compute_floors(clips, numbers, dataset.scenes, dataset.events)
    if not dataset.scenes or not dataset.events or not len(numbers):
        return lambda by_clip: floors
    try:
        recordings = dataset.recordings("development")
    except InputError as error:
        warn(f"the floors that know the events of each scene are left out: {error}")
        return lambda by_clip: floors
    scored = set(clips.recording[numbers])  # in cross-validation, these are part of the development split
    present = list_scene_events((item for item in recordings if item.path not in scored), dataset.scenes, dataset.events)
    true, counts = _count_scene_answers(clips, numbers, present)
    floors["event"]["events_of_true_scene"] = _score_answers(counts, true)

    def add_predicted(by_clip: Mapping) -> dict[str, Any]:
        if "scene" not in by_clip:
            return floors
        counted = by_clip["number"] >= 0  # the others are padding
        order = np.argsort(by_clip["number"][counted])
        predicted = by_clip["scene"]["predicted"][counted][order]
        of_clips = {name: count[np.argsort(numbers)] for name, count in counts.items()}
        return floors | {"event": floors["event"] | {"events_of_predicted_scene": _score_answers(of_clips, predicted)}}

    return add_predicted


def list_scene_events(recordings: Iterable[Recording], scenes: Sequence[str], events: Sequence[str]) -> np.ndarray:
    """Marks the events that occur in the recordings of each scene, bool [shape=(S, E)]."""
    present = np.zeros((len(scenes), len(events)), bool)
    for recording in recordings:
        if recording.scene:
            present[scenes.index(recording.scene), [events.index(event.label) for event in recording.events]] = True
    return present


def _count_scene_answers(clips: Clips, numbers: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Counts every clip with the events of every scene as the answer in all frames.

    Returns:
      The true scene of each clip, int [shape=(N,)], and `metrics.frame_counts` with leading axes [shape=(N, S + 1)]. The last
      answer, also -1, the number of no scene, is the events of every scene.
    """
    present = np.vstack([present, present.all(0)])
    true, parts = [], []
    for batch in read_batches(clips, numbers, CLIPS_AT_ONCE):
        answers = np.broadcast_to(present[:, None], (len(present), *batch["events"].shape[1:]))
        counts = jax.device_get(_count_answers(answers, batch["events"], _mask_event_frames(batch)))
        parts.append(jax.tree.map(lambda count, kept=batch["clip_mask"]: count[kept], counts))
        true.append(batch["scene"][batch["clip_mask"]])
    return np.concatenate(true), {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _score_answers(counts: Mapping[str, np.ndarray], answers: np.ndarray) -> dict[str, Any]:
    """Scores clips with one of the answers that `_count_scene_answers` counted for each."""
    clips = np.arange(len(answers))
    ratios = metrics.frame_ratios({name: count[clips, answers].sum(0, dtype=np.int64) for name, count in counts.items()})
    return {key: ratios[key] for key in KEYS}


def _score_fixed_answers(clips: Clips, numbers: np.ndarray, detected: np.ndarray) -> dict[str, Any]:
    """Scores the detection of the same events in every frame of a scene, bool [shape=(S, E)], where events are annotated."""
    detected = np.vstack([detected, detected.all(0)])  # -1, no scene: what is detected in all scenes
    counts = {key: np.zeros(detected.shape[1], np.int64) for key in ("tp", "fp", "fn")} | dict.fromkeys(
        ("substitutions", "deletions", "insertions", "active"), 0
    )
    for batch in read_batches(clips, numbers, CLIPS_AT_ONCE):
        answers = np.broadcast_to(detected[batch["scene"]][:, None], batch["events"].shape)
        counts = jax.tree.map(np.add, counts, metrics.frame_counts(answers, batch["events"], _mask_event_frames(batch)))
    ratios = metrics.frame_ratios(counts)
    return {key: ratios[key] for key in KEYS}


def _warn_of_unannotated(clips: Clips, numbers: np.ndarray, scenes: tuple[str, ...], events: tuple[str, ...]) -> None:
    for classes, mask, kind in ((scenes, clips.scene_mask, "scene"), (events, clips.event_mask, "event")):
        if classes and len(numbers) and not mask[numbers].any():
            warn(f"no clip to score is annotated for {kind}s; {kind} scores are 0 of 0")


def _mask_event_frames(batch: dict) -> np.ndarray:
    """Marks the valid frames of the clips of a batch whose events are annotated."""
    return _mask_frames(batch) & batch["event_mask"][:, None]


def _mask_frames(batch: dict) -> np.ndarray:
    """Marks the valid frames of the clips of a batch."""
    return np.asarray(frame_mask(batch["valid_frames"], batch["events"].shape[1]) & batch["clip_mask"][:, None])
