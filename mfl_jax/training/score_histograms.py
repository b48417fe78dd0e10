"""Histograms of event scores, and the figures that need no threshold, or the best one, computed from them.

A histogram counts the active and the inactive frames of each event by the logit of the score, in 4096 bins 1/128 wide. It adds up
over batches and devices like any other count, and is small however long the recordings are. The edges of bins are thresholds at
which all counts are exact; 0.5, the logit 0, is one of them. What lies between two edges is a tie. Logits below -16 or from 16
on, i.e. probabilities within 1e-7 of 0 or 1, are in the first or the last bin.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from mfl_jax.metrics import percent_f, ratio

BINS, BINS_PER_UNIT = 4096, 128
RELIABILITY_BINS = 10
UPPER_BOUND = "upper bound: thresholds chosen on the evaluated recordings"


def count_scores(logits: jax.Array, active: jax.Array, valid: jax.Array) -> jax.Array:
    """Counts frames by event, label and logit; works inside `jit` and `vmap`.

    Args:
      logits: in any floating-point type [shape=(B, T, E)]; NaN is in the first bin, as it is detected at no threshold.
      active: the labels, bool [shape=(B, T, E)].
      valid: the frames to count, bool [shape=(B, T)].

    Returns:
      int32 [shape=(E, 2, BINS)]: the inactive and the active frames, by ascending logit.
    """
    events = logits.shape[-1]
    logits = jnp.nan_to_num(logits.astype(jnp.float32), nan=-jnp.inf)
    bins = jnp.clip(jnp.floor(logits * BINS_PER_UNIT) + BINS // 2, 0, BINS - 1).astype(jnp.int32)
    cells = (2 * jnp.arange(events) + active) * BINS + bins
    counts = jnp.broadcast_to(valid[..., None], cells.shape).astype(jnp.int32)
    return jnp.zeros(events * 2 * BINS, jnp.int32).at[cells.ravel()].add(counts.ravel()).reshape(events, 2, BINS)


def summarise_scores(histogram: np.ndarray) -> dict[str, Any]:
    """Computes the figures of event scores.

    Args:
      histogram: sum of what `count_scores` returns, int64 [shape=(E, 2, BINS)].

    Returns:
      A dictionary that JSON can hold; lists have a value per event:
        `average_precision`: `class`, `class_prevalence` and `mean`, from 0 to 1, and `mean_above_prevalence`, the mean
          difference of the two. Random scores have an average precision equal to the prevalence, the share of active frames.
          An event without active frames has None and is left out of the means.
        `oracle_thresholds`: `macro_f` and `class_f`, percent, each event at its best threshold, `class_threshold` (None
          for an event that is best never detected), and `note`, which says that this is an upper bound. As in all macro F, an
          event without active frames counts 0.
        `brier`, `class_brier`: mean squared differences of probability and label. All events have the same frames, so the mean
          over events is that over all cells, i.e. pairs of a frame and an event.
        `reliability`: ten equal intervals of the probability, with `mean_score`, `share_active` and `cells`.
      Means over nothing are None.
    """
    inactive, active = histogram[:, 0], histogram[:, 1]
    return {
        "average_precision": _average_precisions(inactive, active),
        "oracle_thresholds": _choose_best_thresholds(inactive, active),
        **_compute_brier(inactive, active),
        "reliability": _tabulate_reliability(inactive.sum(0), active.sum(0)),
    }


def choose_one_threshold(histogram: np.ndarray) -> dict[str, float]:
    """Chooses the threshold for all events with the highest macro F; the highest among equals.

    Args:
      histogram: as in `summarise_scores`.

    Returns:
      `threshold`, and `macro_f` and `micro_f` there, in percent.
    """
    inactive, active = histogram[:, 0], histogram[:, 1]
    hits, alarms = count_above(active), count_above(inactive)
    macro_f = percent_f(hits, alarms, active.sum(1, keepdims=True) - hits).mean(0)
    return score_one_threshold(histogram, float(score_edges()[BINS - 1 - macro_f[::-1].argmax()]))


def score_one_threshold(histogram: np.ndarray, threshold: float) -> dict[str, float]:
    """Scores all events at the edge of a bin that is nearest to a threshold; the result is as in `choose_one_threshold`."""
    edges = score_edges()
    edge = np.abs(edges - threshold).argmin()
    false_alarms, hits = histogram[:, :, edge:].sum(-1).T
    misses = histogram[:, 1].sum(-1) - hits
    return {
        "threshold": float(edges[edge]),
        "macro_f": float(percent_f(hits, false_alarms, misses).mean()),
        "micro_f": float(percent_f(hits.sum(), false_alarms.sum(), misses.sum())),
    }


def score_edges() -> np.ndarray:
    """Returns the lower edges of the bins as probabilities, float64 [shape=(BINS,)]; the first is 0."""
    edges = _to_probability(np.arange(BINS) - BINS // 2)
    edges[0] = 0.0
    return edges


def _to_probability(bins: np.ndarray) -> np.ndarray:
    return scipy.special.expit(bins / BINS_PER_UNIT)


def _mean_scores() -> np.ndarray:
    """Returns the probabilities at the middle of the bins."""
    return _to_probability(np.arange(BINS) - BINS // 2 + 0.5)


def count_above(counts: np.ndarray) -> np.ndarray:
    """Returns how many frames are at or above the lower edge of each bin [shape=(..., BINS)]."""
    return counts[..., ::-1].cumsum(-1)[..., ::-1]


def _average_precisions(inactive: np.ndarray, active: np.ndarray) -> dict[str, Any]:
    hits, frames, total = count_above(active), inactive.sum(1) + active.sum(1), active.sum(1)
    precision = ratio(hits, hits + count_above(inactive))
    area, prevalence, present = ratio((active * precision).sum(1), total), ratio(total, frames), total > 0
    return {
        "mean_above_prevalence": _mean(area[present] - prevalence[present]),
        "mean": _mean(area[present]),
        "class": _list_where(area, present),
        "class_prevalence": _list_where(prevalence, frames > 0),
    }


def _choose_best_thresholds(inactive: np.ndarray, active: np.ndarray) -> dict[str, Any]:
    hits = count_above(active)
    f = percent_f(hits, count_above(inactive), active.sum(1, keepdims=True) - hits)
    best = BINS - 1 - f[:, ::-1].argmax(1)  # the highest among equals
    class_f = f.max(1)
    return {
        "note": UPPER_BOUND,
        "macro_f": float(class_f.mean()),
        "class_f": class_f.tolist(),
        "class_threshold": _list_where(score_edges()[best], class_f > 0),
    }


def _compute_brier(inactive: np.ndarray, active: np.ndarray) -> dict[str, Any]:
    score, frames = _mean_scores(), inactive.sum(1) + active.sum(1)
    brier = ratio(inactive @ score**2 + active @ (1 - score) ** 2, frames)
    return {"brier": _mean(brier[frames > 0]), "class_brier": _list_where(brier, frames > 0)}


def _tabulate_reliability(inactive: np.ndarray, active: np.ndarray) -> list[dict[str, Any]]:
    score = _mean_scores()
    interval = (score * RELIABILITY_BINS).astype(int)
    cells, hits, total = (
        np.bincount(interval, weights, RELIABILITY_BINS) for weights in (inactive + active, active, (inactive + active) * score)
    )
    means, shares = (_list_where(ratio(sums, cells), cells > 0) for sums in (total, hits))
    return [
        {"mean_score": mean, "share_active": share, "cells": int(count)}
        for mean, share, count in zip(means, shares, cells, strict=True)
    ]


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _list_where(values: np.ndarray, present: np.ndarray) -> list[float | None]:
    return [float(value) if is_present else None for value, is_present in zip(values, present, strict=True)]
