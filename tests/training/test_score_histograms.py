"""Average precision, best thresholds and calibration from histograms of scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from mfl_jax import metrics
from mfl_jax.training import score_histograms
from mfl_jax.training.score_histograms import BINS

count_scores = jax.jit(score_histograms.count_scores)


def build_histogram(logits, active, valid=None) -> np.ndarray:
    """Histogram [shape=(E, 2, BINS)] of logits and labels [shape=(frames, E)]."""
    logits, active = np.asarray(logits)[None], np.asarray(active, bool)[None]
    valid = np.ones(logits.shape[:2], bool) if valid is None else np.asarray(valid)[None]
    return np.asarray(count_scores(logits, active, valid), np.int64)


def draw_frames(seed, spread):
    """Logits and labels of 1,000 frames; every event is rarer and easier than the one before."""
    rng = np.random.default_rng(seed)
    active = rng.random((1000, 3)) < [0.5, 0.1, 0.01]
    return (spread * (rng.normal(size=active.shape) + active * [0.5, 1, 2] - 1)).astype(np.float32), active


def test_figures_of_five_frames_by_hand():
    """Event 0 has a tie of a hit and a false alarm at 0.5; event 1 is never active; the last frame does not count."""
    logits = np.array([[2.0, -3], [0, -3], [0, -3], [-2, -3], [9, -3]])
    active = np.array([[1, 0], [1, 0], [0, 0], [0, 0], [0, 0]])
    figures = score_histograms.summarise_scores(build_histogram(logits, active, [1, 1, 1, 1, 0]))
    precision = figures["average_precision"]
    assert precision["class"] == [pytest.approx(0.5 * 1 + 0.5 * 2 / 3), None] and precision["class_prevalence"] == [0.5, 0.0]
    assert precision["mean"] == pytest.approx(5 / 6) and precision["mean_above_prevalence"] == pytest.approx(1 / 3)
    best = figures["oracle_thresholds"]
    assert best["class_f"] == [pytest.approx(80), 0] and best["macro_f"] == pytest.approx(40)
    assert best["class_threshold"] == [0.5, None] and "upper bound" in best["note"]
    p = {logit: 1 / (1 + np.exp(-logit - 1 / 256)) for logit in (2, 0, -2, -3)}  # the middle of the bin
    brier = ((1 - p[2]) ** 2 + (1 - p[0]) ** 2 + p[0] ** 2 + p[-2] ** 2) / 4, p[-3] ** 2
    assert figures["class_brier"] == [pytest.approx(value) for value in brier]
    assert figures["brier"] == pytest.approx(np.mean(brier))
    rows = figures["reliability"]
    assert [row["cells"] for row in rows] == [4, 1, 0, 0, 0, 2, 0, 0, 1, 0]
    assert rows[0] == {"mean_score": pytest.approx(p[-3]), "share_active": 0.0, "cells": 4}
    assert rows[5]["share_active"] == 0.5 and rows[2] == {"mean_score": None, "share_active": None, "cells": 0}


def test_nothing_to_score():
    figures = score_histograms.summarise_scores(np.zeros((2, 2, BINS), np.int64))
    assert figures["average_precision"]["mean_above_prevalence"] is None and figures["brier"] is None
    assert figures["average_precision"]["class_prevalence"] == [None, None]
    assert figures["oracle_thresholds"]["macro_f"] == 0


@pytest.mark.parametrize("spread", [0.05, 1, 6], ids=["alike", "usual", "saturated"])
def test_average_precision_against_scikit_learn(spread):
    """Exact for scores on the edges of bins; otherwise off by ties within a bin, which matter where all scores are alike."""
    logits, active = draw_frames(0, spread)
    on_edges = np.floor(logits * 128) / 128
    for scores, tolerance in ((on_edges, 1e-12), (logits, 0.02 if spread < 1 else 0.002)):
        got = score_histograms.summarise_scores(build_histogram(scores, active))["average_precision"]
        clipped = np.clip(scores, -16, 16)
        want = [average_precision_score(active[:, event], clipped[:, event]) for event in range(3)]
        assert got["class"] == pytest.approx(want, abs=tolerance)
        assert got["mean_above_prevalence"] == pytest.approx(np.mean(want - active.mean(0)), abs=tolerance)


def test_best_thresholds_and_brier_against_all_scores():
    logits, active = draw_frames(1, 1)
    probabilities = 1 / (1 + np.exp(-logits.astype(float)))
    figures = score_histograms.summarise_scores(build_histogram(logits, active))
    for event, threshold in enumerate(figures["oracle_thresholds"]["class_threshold"]):
        column, labels = probabilities[:, [event]], active[:, [event]]
        f = figures["oracle_thresholds"]["class_f"][event]
        assert metrics.frame_scores(column, labels, threshold - 1e-9)["macro_f"] == pytest.approx(f)
        best = max(metrics.frame_scores(column, labels, t)["macro_f"] for t in np.unique(column))
        assert best - 0.5 <= f <= best + 1e-9
    assert figures["class_brier"] == pytest.approx(((probabilities - active) ** 2).mean(0), abs=2e-4)
    cells = np.concatenate([probabilities[active], probabilities[~active]])
    counts = [row["cells"] for row in figures["reliability"]]
    np.testing.assert_allclose(counts, np.histogram(cells, 10, (0, 1))[0], atol=0.002 * cells.size)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_extreme_scores_and_half_precision(dtype):
    """Infinite and huge logits are in the outer bins, NaN in the first; those just below 0 are below the threshold 0.5."""
    logits = jnp.array([[np.inf], [6e4], [0.0], [-1e-7], [-6e4], [-np.inf], [np.nan]], dtype)
    bins = np.flatnonzero(counts := build_histogram(logits, np.ones((7, 1)))[0, 1])
    assert dict(zip(bins.tolist(), counts[bins].tolist(), strict=True)) == {0: 3, 2047: 1, 2048: 1, BINS - 1: 2}


def test_one_threshold_for_all_events():
    """At 0.5 the figures are those of detections; no other edge has a higher macro F than the chosen one."""
    logits, active = draw_frames(2, 1)
    histogram = build_histogram(logits, active)
    want = metrics.frame_ratios(metrics.frame_counts(logits >= 0, active))
    at_half = score_histograms.score_one_threshold(histogram, 0.5)
    assert at_half == {"threshold": 0.5, "macro_f": pytest.approx(want["macro_f"]), "micro_f": pytest.approx(want["micro_f"])}
    chosen = score_histograms.choose_one_threshold(histogram)
    exact = {
        edge: metrics.frame_ratios(metrics.frame_counts(logits >= edge, active))["macro_f"] for edge in np.arange(-4, 4, 1 / 8)
    }
    assert chosen["macro_f"] >= max(exact.values())
    logit = np.log(chosen["threshold"] / (1 - chosen["threshold"]))
    at_chosen = metrics.frame_ratios(metrics.frame_counts(logits >= logit - 1e-6, active))
    assert chosen["macro_f"] == pytest.approx(at_chosen["macro_f"]) and chosen["micro_f"] == pytest.approx(at_chosen["micro_f"])
    assert score_histograms.score_one_threshold(histogram, chosen["threshold"]) == chosen
