"""Scores of scenes and of events, frame by frame: counts that add up, and the ratios made of them.

The counting functions take NumPy or JAX arrays and work inside `jit`; counts of batches and of devices are added before any
ratio is taken. Ratios are percentages, but for the error rate. A class with 0/0 has the F-score 0, and macro F is the
mean over the whole vocabulary.
"""

from collections.abc import Mapping

import numpy as np

THRESHOLD = 0.5
"""An event is detected in a frame where its score is at least this (the paper's Table III)."""


def frame_counts(detected, active, frame_mask=None) -> dict:
    """Counts hits and errors of event detection over frames.

    Args:
      detected, active: bool [shape=(..., E)].
      frame_mask: bool [shape=(...)], the frames that count; all by default.

    Returns:
      Integer counts: `tp`, `fp`, `fn` [shape=(E,)]; `substitutions`, `deletions`, `insertions` and `active`, the scalars of the
      error rate (Mesaros et al. 2016), where a miss and a false alarm of one frame make a substitution.
    """
    events = detected.shape[-1]
    detected, active = detected.reshape(-1, events), active.reshape(-1, events)
    if frame_mask is not None:
        mask = frame_mask.reshape(-1, 1)
        detected, active = detected & mask, active & mask
    hit, alarm, miss = detected & active, detected & ~active, ~detected & active
    alarms, misses = alarm.sum(1), miss.sum(1)
    fewer = alarms * (alarms <= misses) + misses * (alarms > misses)
    return {
        "tp": hit.sum(0),
        "fp": alarm.sum(0),
        "fn": miss.sum(0),
        "substitutions": fewer.sum(),
        "deletions": (misses - fewer).sum(),
        "insertions": (alarms - fewer).sum(),
        "active": active.sum(),
    }


def scene_counts(predicted, scenes, clip_mask=None, *, classes: int) -> dict:
    """Counts predicted against true scenes.

    Args:
      predicted, scenes: integers in [0, classes) [shape=(B,)].
      clip_mask: bool [shape=(B,)], the clips that count; all by default.
      classes: number of scenes.

    Returns:
      {`confusion`: integers [shape=(classes, classes)], a row a true scene, a column a predicted one}.
    """
    index = np.arange(classes)
    true, guess = scenes[:, None] == index, predicted[:, None] == index
    if clip_mask is not None:
        true = true & clip_mask[:, None]
    return {"confusion": (true[:, :, None] & guess[:, None, :]).sum(0)}


def _percent_f(tp, fp, fn) -> np.ndarray:
    tp, fp, fn = (np.asarray(count, np.float64) for count in (tp, fp, fn))
    return 100.0 * _ratio(2 * tp, 2 * tp + fp + fn)


def _ratio(part, whole) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(np.shape(whole)), where=np.asarray(whole) > 0)


def frame_ratios(counts: Mapping) -> dict:
    """Turns the sums of `frame_counts` into scores.

    Returns:
      `micro_f`, `macro_f`, `precision`, `recall` in percent; `class_f`, percent, a value a class; `error_rate`, a ratio
      (0.5 is 50 % of the active events in error), None where no event is active at all.
    """
    tp, fp, fn = (np.asarray(counts[key], np.int64) for key in ("tp", "fp", "fn"))
    class_f = _percent_f(tp, fp, fn)
    errors = sum(int(counts[key]) for key in ("substitutions", "deletions", "insertions"))
    active = int(counts["active"])
    return {
        "micro_f": float(_percent_f(tp.sum(), fp.sum(), fn.sum())),
        "macro_f": float(class_f.mean()),
        "error_rate": errors / active if active else None,
        "precision": float(100.0 * _ratio(tp.sum(), (tp + fp).sum())),
        "recall": float(100.0 * _ratio(tp.sum(), (tp + fn).sum())),
        "class_f": class_f.tolist(),
    }


def scene_ratios(counts: Mapping) -> dict:
    """Turns the sums of `scene_counts` into scores.

    Returns:
      `micro_f` (the accuracy) and `macro_f` in percent; `confusion`, rows of integers; `class_f`, percent, a value a scene.
    """
    confusion = np.asarray(counts["confusion"], np.int64)
    tp = np.diagonal(confusion)
    class_f = _percent_f(tp, confusion.sum(0) - tp, confusion.sum(1) - tp)
    return {
        "micro_f": float(100.0 * _ratio(tp.sum(), confusion.sum())),
        "macro_f": float(class_f.mean()),
        "confusion": confusion.tolist(),
        "class_f": class_f.tolist(),
    }


def frame_scores(event_scores, event_labels, threshold: float = THRESHOLD) -> dict:
    """Scores event detection frame by frame, as the paper does.

    Args:
      event_scores: [shape=(frames, E)]. event_labels: 0 or 1 [shape=(frames, E)].
      threshold: an event is detected where its score is at least this.

    Returns:
      What `frame_ratios` returns, the `event` part of results.json.

    Raises:
      ValueError: the shapes differ, there is no class, or a score is NaN.
    """
    scores, labels = np.asarray(event_scores), np.asarray(event_labels)
    if scores.ndim != 2 or scores.shape != labels.shape or scores.shape[1] == 0:
        raise ValueError(f"scores and labels are both [frames, events], not {scores.shape} and {labels.shape}")
    if np.isnan(scores).any():
        raise ValueError("an event score is NaN")
    return frame_ratios(frame_counts(scores >= threshold, labels > 0))


def scene_scores(scene_scores, scene_labels) -> dict:
    """Scores scene classification clip by clip.

    Args:
      scene_scores: [shape=(clips, S)]; the highest of a row is the answer, the first among equals.
      scene_labels: integers in [0, S) [shape=(clips,)]; a scene may be absent.

    Returns:
      What `scene_ratios` returns, the `scene` part of results.json.

    Raises:
      ValueError: the shapes do not fit, a label is out of range, or a score is NaN.
    """
    scores, labels = np.asarray(scene_scores), np.asarray(scene_labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or scores.shape[1] == 0:
        raise ValueError(f"scores are [clips, scenes] and labels [clips], not {scores.shape} and {labels.shape}")
    if np.isnan(scores).any():
        raise ValueError("a scene score is NaN")
    if labels.size and not (labels.min() >= 0 and labels.max() < scores.shape[1]):
        raise ValueError(f"scene labels lie in [0, {scores.shape[1]}), not in [{labels.min()}, {labels.max()}]")
    return scene_ratios(scene_counts(scores.argmax(1), labels, classes=scores.shape[1]))
