"""Scores of scenes and events: counts, which can be summed, and the ratios computed from them.

The counting functions take NumPy or JAX arrays and work inside `jit`. Sum the counts of batches and devices before computing
ratios. Ratios are in percent, except the error rate. The F-score of a class is 0 for 0/0, and macro F is the mean over the
whole vocabulary.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike

Array = np.ndarray | jax.Array

THRESHOLD = 0.5
"""An event is detected in a frame if its score is at least this (the paper's Table III)."""


def frame_counts(detected: Array, active: Array, frame_mask: Array | None = None) -> dict[str, Any]:
    """Counts hits and errors of event detection over frames.

    Args:
      detected: bool [shape=(..., E)].
      active: the labels, bool [shape=(..., E)].
      frame_mask: the frames to count, bool [shape=(...)]; all by default.

    Returns:
      Integer counts: `tp`, `fp`, `fn` [shape=(E,)]; `substitutions`, `deletions`, `insertions` and `active`, the scalars of the
      error rate (Mesaros et al. 2016), where a miss and a false alarm in one frame are a substitution.
    """
    events = detected.shape[-1]
    detected, active = detected.reshape(-1, events), active.reshape(-1, events)
    if frame_mask is not None:
        mask = frame_mask.reshape(-1, 1)
        detected, active = detected & mask, active & mask
    hit, alarm, miss = detected & active, detected & ~active, ~detected & active
    alarms, misses = alarm.sum(1), miss.sum(1)
    substitutions = alarms * (alarms <= misses) + misses * (alarms > misses)  # the smaller of the two
    return {
        "tp": hit.sum(0),
        "fp": alarm.sum(0),
        "fn": miss.sum(0),
        "substitutions": substitutions.sum(),
        "deletions": (misses - substitutions).sum(),
        "insertions": (alarms - substitutions).sum(),
        "active": active.sum(),
    }


def scene_counts(predicted: Array, scenes: Array, clip_mask: Array | None = None, *, classes: int) -> dict[str, Any]:
    """Counts predicted against true scenes.

    Args:
      predicted: integers in [0, classes) [shape=(B,)].
      scenes: the labels, integers in [0, classes) [shape=(B,)].
      clip_mask: the clips to count, bool [shape=(B,)]; all by default.
      classes: number of scenes.

    Returns:
      {`confusion`: integers [shape=(classes, classes)], one row per true scene, one column per predicted scene}.
    """
    index = np.arange(classes)
    true, guess = scenes[:, None] == index, predicted[:, None] == index
    if clip_mask is not None:
        true = true & clip_mask[:, None]
    return {"confusion": (true[:, :, None] & guess[:, None, :]).sum(0)}


def percent_f(tp: ArrayLike, fp: ArrayLike, fn: ArrayLike) -> np.ndarray:
    """Returns F-scores in percent, 0 for 0/0 [shape of the counts]."""
    tp, fp, fn = (np.asarray(count, np.float64) for count in (tp, fp, fn))
    return 100.0 * ratio(2 * tp, 2 * tp + fp + fn)


def ratio(part: ArrayLike, total: ArrayLike) -> np.ndarray:
    """Returns part / total, 0 for 0/0 [shape of the counts]."""
    return np.divide(part, total, out=np.zeros(np.shape(total)), where=np.asarray(total) > 0)


def frame_ratios(counts: Mapping[str, Any]) -> dict[str, Any]:
    """Computes scores from (sums of) `frame_counts`.

    Returns:
      `micro_f`, `macro_f`, `precision`, `recall` in percent; `class_f` in percent, one value per class; `error_rate`, a ratio to
      the number of active events, None if no event is active.
    """
    tp, fp, fn = (np.asarray(counts[key], np.int64) for key in ("tp", "fp", "fn"))
    class_f = percent_f(tp, fp, fn)
    errors = sum(int(counts[key]) for key in ("substitutions", "deletions", "insertions"))
    active = int(counts["active"])
    return {
        "micro_f": float(percent_f(tp.sum(), fp.sum(), fn.sum())),
        "macro_f": float(class_f.mean()),
        "error_rate": errors / active if active else None,
        "precision": float(100.0 * ratio(tp.sum(), (tp + fp).sum())),
        "recall": float(100.0 * ratio(tp.sum(), (tp + fn).sum())),
        "class_f": class_f.tolist(),
    }


def scene_ratios(counts: Mapping[str, Any]) -> dict[str, Any]:
    """Computes scores from (sums of) `scene_counts`.

    Returns:
      `micro_f` (the accuracy) and `macro_f` in percent; `confusion`, rows of integers; `class_f` in percent, one value per scene.
    """
    confusion = np.asarray(counts["confusion"], np.int64)
    tp = np.diagonal(confusion)
    class_f = percent_f(tp, confusion.sum(0) - tp, confusion.sum(1) - tp)
    return {
        "micro_f": float(100.0 * ratio(tp.sum(), confusion.sum())),
        "macro_f": float(class_f.mean()),
        "confusion": confusion.tolist(),
        "class_f": class_f.tolist(),
    }


NO_NUMBERS = "OSTUMmc"
"""Kinds of dtypes whose values have no order or are no numbers: objects, text, dates and complex numbers."""


def _check_scores(scores: np.ndarray, name: str) -> None:
    if scores.dtype.kind in NO_NUMBERS:
        raise ValueError(f"{name} must be a number, not of the type {scores.dtype}")
    if np.isnan(scores).any():
        raise ValueError(f"{name} is NaN")


def _check_labels(labels: np.ndarray, classes: int, rule: str) -> None:
    """Refuses labels other than the whole numbers in [0, classes); names the first one and its index."""
    if labels.dtype.kind in NO_NUMBERS:
        raise ValueError(f"{rule}, not of the type {labels.dtype}")
    valid = np.isin(labels, np.arange(classes))
    if not valid.all():
        index = tuple(np.argwhere(~valid)[0].tolist())
        raise ValueError(f"{rule}; the one at {list(index)} is {labels[index]}")


def frame_scores(event_scores: ArrayLike, event_labels: ArrayLike, threshold: float = THRESHOLD) -> dict[str, Any]:
    """Scores event detection frame by frame, as the paper does.

    Args:
      event_scores: [shape=(frames, E)].
      event_labels: bool, or 0 and 1 in any numeric type [shape=(frames, E)]. Leave masked frames out of both arrays.
      threshold: an event is detected if its score is at least this.

    Returns:
      The result of `frame_ratios`, which is the `event` part of results.json.

    Raises:
      ValueError: the shapes differ, there is no class, a score or the threshold is NaN, or a label is neither 0 nor 1.
    """
    scores, labels = np.asarray(event_scores), np.asarray(event_labels)
    if scores.ndim != 2 or scores.shape != labels.shape or scores.shape[1] == 0:
        raise ValueError(f"scores and labels must both be [frames, events], not {scores.shape} and {labels.shape}")
    _check_scores(scores, "an event score")
    _check_labels(labels, 2, "event labels must be 0 or 1")
    if np.isnan(threshold):
        raise ValueError("the threshold is NaN")
    return frame_ratios(frame_counts(scores >= threshold, labels > 0))


def scene_scores(scene_scores: ArrayLike, scene_labels: ArrayLike) -> dict[str, Any]:
    """Scores scene classification clip by clip.

    Args:
      scene_scores: [shape=(clips, S)]; the answer is the highest score of a row, the first among equals.
      scene_labels: whole numbers in [0, S) [shape=(clips,)]; a scene may be absent.

    Returns:
      The result of `scene_ratios`, which is the `scene` part of results.json.

    Raises:
      ValueError: the shapes do not match, a label is not a whole number in range, or a score is NaN.
    """
    scores, labels = np.asarray(scene_scores), np.asarray(scene_labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or scores.shape[1] == 0:
        raise ValueError(f"scores must be [clips, scenes] and labels [clips], not {scores.shape} and {labels.shape}")
    _check_scores(scores, "a scene score")
    _check_labels(labels, scores.shape[1], f"scene labels must be whole numbers in [0, {scores.shape[1]})")
    return scene_ratios(scene_counts(scores.argmax(1), labels, classes=scores.shape[1]))
