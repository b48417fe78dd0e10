"""Searches for the post-processing rule of an event that gives the highest F on some recordings."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from mfl_jax.inference import postprocessing
from mfl_jax.inference.postprocessing import Rule

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
MEDIANS_S = (0.0, 0.1, 0.22, 0.46, 0.94)
LOW_SHARES = (None, 0.8, 0.6, 0.4)
"""Low thresholds of the hysteresis, as shares of the threshold."""
GAPS_S = (0.0, 0.1, 0.2, 0.4, 0.8)
DURATIONS_S = (0.0, 0.1, 0.2, 0.4, 0.8)
SEGMENT_S = 1.0
TOLERANCE = 1e-12
"""Differences of F below this are rounding errors."""

STAGES: tuple[Callable[[Rule], list[dict]], ...] = (
    lambda rule: [{"median_s": m, "threshold": t, "low_threshold": None} for m in MEDIANS_S for t in THRESHOLDS],
    lambda rule: [{"low_threshold": share and round(share * rule.threshold, 4)} for share in LOW_SHARES],
    lambda rule: [{"max_gap_s": gap} for gap in GAPS_S],
    lambda rule: [{"min_duration_s": duration} for duration in DURATIONS_S],
)
"""Stages of the search: each lists the changes to try on the best rule so far."""


def _to_segments(active: np.ndarray, hop_s: float) -> np.ndarray:
    """Marks the one-second segments of a recording that an active frame overlaps: bool [shape=(T,)] -> bool."""
    tolerance = 1e-9  # a second is not a whole number of hops in floating point
    segments = np.zeros(math.ceil(len(active) * hop_s / SEGMENT_S - tolerance), bool)
    for first, last in postprocessing.find_runs(active):
        segments[int(first * hop_s / SEGMENT_S + tolerance) : math.ceil(last * hop_s / SEGMENT_S - tolerance)] = True
    return segments


def count_frames(detected: Sequence[np.ndarray], active: Sequence[np.ndarray], score: str, hop_s: float) -> np.ndarray:
    """Counts the frames or segments from which the F-score of one event is computed.

    Args:
      detected: one array per recording, bool [shape=(T,)].
      active: the labels, likewise.
      score: `frame` or `segment` (of a second).
      hop_s: seconds per frame.

    Returns:
      int [shape=(R, 2)], of each recording: TP, and 2 TP + FP + FN.
    """
    if score == "segment":
        detected, active = ([_to_segments(frames, hop_s) for frames in side] for side in (detected, active))
    pairs = zip(detected, active, strict=True)
    return np.array([[(d & a).sum(), d.sum() + a.sum()] for d, a in pairs], np.int64).reshape(-1, 2)


def compute_f(counts: np.ndarray) -> float:
    """Computes F from counts as `count_frames` returns them, of any number of recordings or events; 0 for 0/0."""
    hits, total = (int(number) for number in counts.reshape(-1, 2).sum(0))
    return 2 * hits / total if total else 0.0


class RuleCounts:
    """The counts of one event under any rule. Each rule is applied once, however often it is asked for."""

    def __init__(self, scores: Sequence[np.ndarray], active: Sequence[np.ndarray], score: str, hop_s: float) -> None:
        """Stores the inputs; nothing is computed yet.

        Args:
          scores: one array per recording, float32 [shape=(T,)].
          active: the labels, bool [shape=(T,)].
          score: as for `count_frames`.
          hop_s: seconds per frame.
        """
        self._scores, self._active, self._score, self._hop_s = scores, active, score, hop_s
        self._filtered: dict[float, list[np.ndarray]] = {}
        self._counts: dict[Rule, np.ndarray] = {}
        self.labelled = np.array([frames.any() for frames in active], bool)
        """Whether each recording has the event, bool [shape=(R,)]."""

    def __call__(self, rule: Rule) -> np.ndarray:
        """Returns the counts of each recording, int [shape=(R, 2)], as `count_frames`."""
        if rule not in self._counts:
            if rule.median_s not in self._filtered:
                self._filtered[rule.median_s] = [postprocessing.median_filter(s, rule, self._hop_s) for s in self._scores]
            detected = [_detect_frames(recording, rule, self._hop_s) for recording in self._filtered[rule.median_s]]
            self._counts[rule] = count_frames(detected, self._active, self._score, self._hop_s)
        return self._counts[rule]


def choose_rule(counts: RuleCounts, start: Rule, chosen: np.ndarray | None = None) -> Rule:
    """Chooses the rule of one event.

    Tries all thresholds with each median filter, then hysteresis, gaps and shortest durations, each on top of the best rule so
    far. A step that does not raise the score is not used.

    Args:
      counts: of the event.
      start: the rule to begin with, which an event without labels keeps.
      chosen: the recordings to choose the rule on, bool [shape=(R,)]; None for all.
    """
    chosen = np.ones(len(counts.labelled), bool) if chosen is None else chosen
    if not counts.labelled[chosen].any():
        return start
    best, best_f = start, compute_f(counts(start)[chosen])
    for list_changes in STAGES:
        candidates = [dataclasses.replace(best, **changes) for changes in list_changes(best)]
        f_scores = [compute_f(counts(rule)[chosen]) for rule in candidates]
        if max(f_scores) > best_f + TOLERANCE:
            best_f = max(f_scores)
            # Of equally good rules take those with the shortest median filter, and of these the one in the middle.
            good = [rule for rule, f in zip(candidates, f_scores, strict=True) if f > best_f - TOLERANCE]
            good = [rule for rule in good if rule.median_s == good[0].median_s]
            best = good[len(good) // 2]
    return best


def _detect_frames(filtered: np.ndarray, rule: Rule, hop_s: float) -> np.ndarray:
    """Marks the frames of the events in filtered scores: [shape=(T,)] -> bool [shape=(T,)]."""
    frames = np.zeros(len(filtered), bool)
    for first, last in postprocessing.find_event_runs(filtered, rule, hop_s):
        frames[first:last] = True
    return frames
