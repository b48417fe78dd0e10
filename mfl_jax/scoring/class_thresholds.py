"""Chooses a threshold for each event on the pooled out-of-fold scores of a cross-validation.

Every development recording is scored by runs that did not train on it. So the thresholds need no recordings of their own, and the
final run can train on all of them. For a rare event the best threshold is mostly noise, so it is shrunk towards the best one for
all events. The logit is a weighted mean: an event in n recordings has weight n, the shared threshold has weight `shrinkage`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.special

from mfl_jax.metrics import percent_f
from mfl_jax.training.score_histograms import BINS, BINS_PER_UNIT, count_above, score_edges

SHRINKAGES = (0.0, 2.0, 8.0, 32.0, np.inf)
"""Candidates, in recordings; with infinity all events have the shared threshold."""


@dataclasses.dataclass(frozen=True)
class ClassThresholds:
    """Thresholds, and their scores on recordings on which they were not chosen.

    Attributes:
      shared: the threshold for all events.
      by_event: the threshold of each event, float64 [shape=(E,)].
      shrinkage: the one of `SHRINKAGES` that was chosen.
      cross_fitted: {"half", "shared", "by_event"}, each as `score_thresholds` returns it, pooled over the folds: at 0.5, and at
        thresholds chosen on the other folds. `shrinkage` was chosen by the last of them, so that one may be a little too high.
    """

    shared: float
    by_event: np.ndarray
    shrinkage: float
    cross_fitted: dict[str, dict[str, Any]]


def choose_thresholds(folds: Sequence[np.ndarray] | np.ndarray, recordings: np.ndarray) -> ClassThresholds:
    """Chooses the thresholds with the highest macro F.

    Args:
      folds: histograms of the scores of each of F folds, from runs that did not train on it, as in
        `score_histograms.summarise_scores` [shape=(E, 2, BINS)]. Several runs may be added up.
      recordings: number of recordings of each fold with each event, int [shape=(F, E)].
    """
    counts, recordings = np.asarray(folds, np.int64), np.asarray(recordings)
    others = list(zip(counts.sum(0) - counts, recordings.sum(0) - recordings, strict=True))
    scores = {
        shrinkage: _score_edges(counts, np.array([_choose_edges(*other, shrinkage) for other in others]))
        for shrinkage in SHRINKAGES
    }
    shrinkage = max(SHRINKAGES, key=lambda shrinkage: (scores[shrinkage]["macro_f"], shrinkage))
    return ClassThresholds(
        shared=float(_to_threshold(_choose_shared_edge(counts.sum(0)))),
        by_event=_to_threshold(_choose_edges(counts.sum(0), recordings.sum(0), shrinkage)),
        shrinkage=shrinkage,
        cross_fitted={
            "half": _score_edges(counts, np.full(counts.shape[:2], BINS // 2)),
            "shared": scores[np.inf],
            "by_event": scores[shrinkage],
        },
    )


def score_thresholds(histogram: np.ndarray, thresholds: np.ndarray) -> dict[str, Any]:
    """Scores each event at the edge of a bin that is nearest, as a logit, to its threshold.

    Args:
      histogram: as in `score_histograms.summarise_scores`.
      thresholds: above 0 [shape=(E,)].

    Returns:
      `macro_f` and `micro_f` in percent, and `class_f`, a list.
    """
    edges = np.rint(scipy.special.logit(thresholds) * BINS_PER_UNIT) + BINS // 2
    return _score_edges(histogram[None], np.clip(edges, 0, BINS - 1).astype(int)[None])


def _choose_edges(histogram: np.ndarray, recordings: np.ndarray, shrinkage: float) -> np.ndarray:
    """Chooses the edge of each event, int [shape=(E,)]."""
    f, shared = _compute_f(histogram), _choose_shared_edge(histogram)
    weight = np.where(f.max(1) > 0, recordings, 0) / np.maximum(recordings + shrinkage, 1)
    return np.rint(shared + weight * (_find_last_maximum(f) - shared)).astype(int)


def _choose_shared_edge(histogram: np.ndarray) -> int:
    return int(_find_last_maximum(_compute_f(histogram).mean(0)))


def _compute_f(histogram: np.ndarray) -> np.ndarray:
    """Computes F of each event at the lower edge of each bin [shape=(E, BINS)]."""
    alarms, hits = np.moveaxis(count_above(histogram), 1, 0)
    return percent_f(hits, alarms, hits[:, :1] - hits)


def _find_last_maximum(values: np.ndarray) -> np.ndarray:
    """Returns the last bin with the highest value. It is not the first one, since a rule needs a threshold above 0."""
    return np.maximum(BINS - 1 - values[..., ::-1].argmax(-1), 1)


def _score_edges(folds: np.ndarray, edges: np.ndarray) -> dict[str, Any]:
    """Pools the counts of folds [shape=(F, E, 2, BINS)] at the edges of each, int [shape=(F, E)]."""
    detected = np.arange(BINS) >= edges[..., None]
    alarms, hits = (folds * detected[:, :, None]).sum((0, 3)).T
    misses = folds[:, :, 1].sum((0, 2)) - hits
    class_f = percent_f(hits, alarms, misses)
    return {
        "macro_f": float(class_f.mean()),
        "micro_f": float(percent_f(hits.sum(), alarms.sum(), misses.sum())),
        "class_f": class_f.tolist(),
    }


def _to_threshold(edges: np.ndarray | int) -> np.ndarray:
    return score_edges()[edges]
