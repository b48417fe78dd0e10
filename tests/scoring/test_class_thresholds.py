"""Thresholds from out-of-fold scores, against thresholds found by trying every score."""

import numpy as np
import pytest
import scipy.special

from mfl_jax.scoring import class_thresholds
from mfl_jax.training import score_histograms

BIN = 1 / score_histograms.BINS_PER_UNIT


def build_histogram(inactive, active):
    """Histogram of one event from logits at the lower edges of bins."""
    histogram = np.zeros((2, score_histograms.BINS), np.int64)
    for row, logits in enumerate((inactive, active)):
        for logit in logits:
            histogram[row, round(logit / BIN) + score_histograms.BINS // 2] += 1
    return histogram


def logit_of(threshold):
    return float(scipy.special.logit(threshold))


PERFECT = build_histogram([-3.0, -3.0, -2.0], [-1.0, -0.5])
HIGH = build_histogram([-3.0, 0.5, 1.0], [2.0, 3.0])
EMPTY = build_histogram([-4.0, -4.0, -4.0, -4.0, -4.0], [])


def test_each_event_gets_its_best_threshold_where_recordings_are_many():
    folds = [np.stack([PERFECT, HIGH])] * 4
    chosen = class_thresholds.choose_thresholds(folds, np.full((4, 2), 250))
    assert [logit_of(t) for t in chosen.by_event] == pytest.approx([-1.0, 2.0], abs=0.1)
    assert chosen.cross_fitted["by_event"]["macro_f"] == 100.0
    # At 0.5 the first event is never detected, and the second has two false alarms beside its two frames.
    assert chosen.cross_fitted["half"]["class_f"] == pytest.approx([0.0, 100 * 4 / 6])


def test_the_shared_threshold_has_the_highest_macro_f():
    folds = [np.stack([PERFECT, HIGH])] * 4
    chosen = class_thresholds.choose_thresholds(folds, np.full((4, 2), 5))
    # -1: F 100 and 4/6. 2: F 0 and 100. -0.5: F 2/3 (one of two) and 4/6.
    assert logit_of(chosen.shared) == pytest.approx(-1.0, abs=1e-6)
    assert chosen.cross_fitted["shared"]["macro_f"] == pytest.approx(100 * (1 + 4 / 6) / 2)


def test_a_rare_event_is_shrunk_towards_the_shared_threshold():
    histogram = np.stack([PERFECT, HIGH])
    middle = class_thresholds._choose_edges(histogram, np.array([8, 8]), 8.0)
    shared, own = (class_thresholds._choose_edges(histogram, np.array([8, 8]), s) for s in (np.inf, 0.0))
    np.testing.assert_array_equal(middle, np.rint((shared + own) / 2))


def test_an_event_without_recordings_gets_the_shared_threshold():
    folds = [np.stack([PERFECT, EMPTY])] * 4
    chosen = class_thresholds.choose_thresholds(folds, np.array([[3, 0]] * 4))
    assert chosen.by_event[1] == pytest.approx(chosen.shared)


def test_an_event_that_is_always_active_is_scored_at_the_threshold_that_is_written():
    """The lowest threshold is above 0, so a score of 0 is no detection."""
    always = build_histogram([], [-score_histograms.BINS // 2 * BIN, 0.0, 1.0])
    chosen = class_thresholds.choose_thresholds([always[None]] * 4, np.array([[3]] * 4))
    scores = class_thresholds.score_thresholds(4 * always[None], chosen.by_event)
    assert chosen.by_event[0] > 0 and scores["class_f"] == chosen.cross_fitted["by_event"]["class_f"] == pytest.approx([80])


def test_thresholds_of_a_fold_are_chosen_on_the_others():
    """Fold 0 has most frames, best at 2. Chosen with them, all thresholds would be 2; without them, that of fold 0 is -1."""
    many, few = build_histogram([1.0] * 10, [2.0] * 10), build_histogram([-2.0], [-1.0])
    chosen = class_thresholds.choose_thresholds([many[None], *[few[None]] * 3], np.array([[100]] * 4))
    assert logit_of(chosen.by_event[0]) == pytest.approx(2.0, abs=1e-6)
    # Fold 0 at -1: 10 hits, 10 alarms. The others at 2, the best with fold 0: 3 misses.
    assert chosen.cross_fitted["by_event"]["class_f"] == pytest.approx([100 * 20 / (20 + 10 + 3)])


def test_an_event_of_one_fold_alone_has_the_shared_threshold_there():
    """The recordings of the scored fold give its threshold no weight."""
    folds = [np.stack([PERFECT, HIGH]), *[np.stack([PERFECT, EMPTY])] * 3]
    chosen = class_thresholds.choose_thresholds(folds, np.array([[9, 9], [9, 0], [9, 0], [9, 0]]))
    # Fold 0 at -1 for both events, the shared threshold of the others: two hits and two alarms of the second one.
    assert chosen.cross_fitted["by_event"]["class_f"][1] == pytest.approx(100 * 4 / (4 + 2))


def test_scores_at_thresholds_are_exact_at_the_edges():
    histogram = np.stack([PERFECT, HIGH])
    scores = class_thresholds.score_thresholds(histogram, scipy.special.expit(np.array([-0.5, 1.0])))
    # First: one hit, one miss. Second: two hits, one false alarm.
    assert scores["class_f"] == pytest.approx([100 * 2 / 3, 100 * 4 / 5])
    assert scores["micro_f"] == pytest.approx(100 * 6 / (6 + 1 + 1))
