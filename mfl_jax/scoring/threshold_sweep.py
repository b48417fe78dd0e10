"""Scores over all thresholds of frame scores, by sed_scores_eval: best thresholds and the PSDS. Needs the extra `eval`."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mfl_jax.data.annotation import Event
from mfl_jax.scoring.eval_packages import import_eval_packages

MAX_FALSE_PER_HOUR = 100.0
"""Highest effective rate of false positives per hour in the area of the PSDS."""
EXACT_FRAMES = 2000
"""Up to this number of frames per recording every score is a threshold. The work grows with the cube of the length."""
ALL_HIGHEST, GROWTH = 100, 1.05
"""For longer recordings, thresholds are the hundred highest scores of a class, then those at ranks that grow by 5 %."""
BLOCK = 1 << 22
"""Pairs of events, over thresholds, that are compared at once; limits memory to a few hundred megabytes."""


class ThresholdSweep:
    """Evaluates frame scores at all thresholds.

    Every score is a threshold if no recording has more than 2000 frames. Otherwise some 300 scores of each class are (except for
    segments), most densely among the highest. Operating points are then still exact, but fewer, so areas and the best F of a
    class are at most those over all thresholds. If classes share a threshold, each uses its next one at or above it.

    Attributes:
      labels: classes with a reference event; the scores are over these.
      sampled: whether thresholds are a sample of the scores, rather than all of them.
    """

    def __init__(
        self,
        frame_scores: Mapping[str, np.ndarray],
        true: Mapping[str, Sequence[Event]],
        events: Sequence[str],
        hop_s: float,
        durations_s: Mapping[str, float],
    ) -> None:
        """Prepares the inputs of sed_scores_eval.

        Args:
          frame_scores: recording -> [shape=(T, E)]; frame t covers [t, t + 1) * hop_s.
          true: recording -> its reference events.
          events: names of the columns.
          hop_s: seconds per frame.
          durations_s: recording -> seconds.
        """
        _, self._package = import_eval_packages()
        self._durations_s = {name: round(float(durations_s[name]), 6) for name in true}
        separate = {name: separate_events(true[name], hop_s, self._durations_s[name]) for name in true}
        true_labels = {label for rows in separate.values() for _, _, label in rows}
        self.labels = [label for label in events if label in true_labels]
        # Classes are numbered, since the package adds columns and averages with names of its own.
        numbers = {label: str(index) for index, label in enumerate(self.labels)}
        self._label_of_number = {number: label for label, number in numbers.items()}
        self._reference = {
            name: [(onset, offset, numbers[label]) for onset, offset, label in rows] for name, rows in separate.items()
        }
        columns = [list(events).index(label) for label in self.labels]
        scores = {name: np.asarray(array)[:, columns].astype(np.float64) for name, array in frame_scores.items()}
        self.sampled = max(map(len, scores.values())) > EXACT_FRAMES
        self._all_scores = self._create_data_frames(scores, hop_s) if self.labels else {}
        self._scores = self._all_scores
        if self.labels and self.sampled:
            self._scores = self._create_data_frames(sample_scores(scores), hop_s)

    def _create_data_frames(self, scores: Mapping[str, np.ndarray], hop_s: float) -> dict[str, Any]:
        create = self._package.base_modules.scores.create_score_dataframe
        data_frames = {}
        for name, array in scores.items():
            edges = np.arange(len(array) + 1) * hop_s
            if edges[-2] < self._durations_s[name] < edges[-1]:
                edges[-1] = self._durations_s[name]  # the last frame ends with the recording
            data_frames[name] = create(array, np.round(edges, 6), [*self._label_of_number])
        return data_frames

    def score_segments(self, segment_s: float) -> dict[str, Any]:
        """Returns `best` and `average_precision` of segments, as `event_scores.score_frames` documents them."""
        if not self.labels:
            return {"best": None, "average_precision": None}
        statistics, _ = self._package.segment_based.accumulated_intermediate_statistics(
            self._all_scores, self._reference, self._durations_s, segment_length=float(segment_s)
        )
        average, _ = self._package.base_modules.precision_recall.average_precision_from_intermediate_statistics(statistics)
        by_class = {label: float(average[number]) for number, label in self._label_of_number.items()}
        return {
            "best": self._find_best_thresholds(statistics),
            "average_precision": {"mean": float(average["mean"]), "class": by_class},
        }

    def score_collars(self, onset_collar_s: float, offset_collar_s: float, offset_share: float) -> dict[str, Any]:
        """Returns `best` of events with collars, as `event_scores.score_frames` documents it."""
        if not self.labels:
            return {"best": None}
        module = self._package.collar_based.intermediate_statistics
        collars = {"onset_collar": onset_collar_s, "offset_collar": offset_collar_s, "offset_collar_rate": offset_share}
        deltas = self._compute_deltas(module, **collars)
        statistics, _ = module.accumulated_intermediate_statistics(None, self._reference, deltas=deltas, **collars)
        return {"best": self._find_best_thresholds(statistics)}

    def compute_psds(
        self,
        *,
        dtc_threshold: float,
        gtc_threshold: float,
        cttc_threshold: float | None,
        alpha_ct: float,
        alpha_st: float,
    ) -> dict[str, Any] | None:
        """Computes the PSDS and its curves, as `event_scores.score_frames` documents them; None without reference events.

        Args:
          dtc_threshold: share of a detection that reference events of its class must cover.
          gtc_threshold: share of a reference event that detections must cover.
          cttc_threshold: share of a detection from which on another class counts as confused with it.
          alpha_ct: weight of confused classes.
          alpha_st: weight of the standard deviation over classes.
        """
        if not self.labels:
            return None
        if len(self.labels) == 1:  # there is no other class to confuse it with
            alpha_ct, cttc_threshold = 0.0, None
        criteria = {"dtc_threshold": dtc_threshold, "gtc_threshold": gtc_threshold, "cttc_threshold": cttc_threshold}
        deltas = self._compute_deltas(self._package.intersection_based.intermediate_statistics, **criteria)
        area, class_area, (ratio, rate), class_curves = self._package.intersection_based.psds(
            None, self._reference, self._durations_s, deltas=deltas, alpha_ct=alpha_ct, alpha_st=alpha_st,
            max_efpr=MAX_FALSE_PER_HOUR, **criteria,
        )  # fmt: skip
        grid = np.linspace(0, MAX_FALSE_PER_HOUR, 101)
        by_number = self._label_of_number.items()
        return {
            "psds": float(area),
            "class_psds": {label: float(class_area[number]) for number, label in by_number},
            "false_per_hour": grid.tolist(),
            "tp_ratio": _sample_steps(grid, rate, ratio),
            "class_tp_ratio": {label: _sample_steps(grid, class_curves[n][1], class_curves[n][0]) for n, label in by_number},
        }

    def _compute_deltas(self, module, **criteria):
        """Computes how the counts of each recording change at each of its scores, in blocks of thresholds."""
        return self._package.base_modules.statistics.intermediate_statistics_deltas(
            self._scores, self._reference, intermediate_statistics_fn=count_in_blocks(module.statistics_fn),
            acceleration_fn=module.acceleration_fn, time_decimals=6, **criteria,
        )  # fmt: skip

    def _find_best_thresholds(self, statistics) -> dict[str, Any]:
        """Finds the best threshold of each class, and the best one for all classes; the highest among equals."""
        compute_curve = self._package.base_modules.precision_recall.fscore_curve_from_intermediate_statistics
        by_class: dict[str, dict[str, Any]] = {}
        curves = []
        for number, label in self._label_of_number.items():
            f, precision, recall, scores, counts = compute_curve(statistics[number])
            best = _find_last_maximum(f)
            by_class[label] = {
                "f": 100 * float(f[best]), "precision": 100 * float(precision[best]), "recall": 100 * float(recall[best]),
                "threshold": _finite_or_none(scores[best]),
            }  # fmt: skip
            curves.append((scores, counts))
        thresholds = np.unique(np.concatenate([scores for scores, _ in curves]))
        micro = _compute_micro_f(curves, thresholds)
        best = _find_last_maximum(micro)
        return {
            "micro_f": float(micro[best]),
            "threshold": _finite_or_none(thresholds[best]),
            "macro_f": float(np.mean([scores["f"] for scores in by_class.values()])),
            "class": by_class,
        }


def separate_events(events: Sequence[Event], hop_s: float, duration_s: float) -> list[tuple[float, float, str]]:
    """Merges events of one label that touch, and extends empty events to the frame that holds them.

    Returns:
      (onset, offset, label) of each event, in seconds rounded to microseconds.
    """
    separate: list[tuple[float, float, str]] = []
    for event in sorted(events, key=lambda event: (event.label, event.onset_s)):
        # The package compares microseconds: no detection would match an event shorter than that.
        onset_s, offset_s = round(event.onset_s, 6), round(event.offset_s, 6)
        if onset_s == offset_s:
            # The quotients may miss a whole number by a rounding error.
            frame = min(math.floor(onset_s / hop_s + 1e-6), math.ceil(duration_s / hop_s - 1e-6) - 1)
            onset_s, offset_s = round(frame * hop_s, 6), round(min((frame + 1) * hop_s, duration_s), 6)
        if separate and separate[-1][2] == event.label and onset_s <= separate[-1][1]:
            onset_s, offset_s = separate[-1][0], max(offset_s, separate.pop()[1])
        separate.append((onset_s, offset_s, event.label))
    return separate


def sample_scores(scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Lowers every score to the next of some 300 scores of its class, so that the same scores are at or above each of these."""
    pooled = np.sort(np.concatenate([*scores.values()]), axis=0)[::-1]
    growing = ALL_HIGHEST * GROWTH ** np.arange(math.log(max(len(pooled) / ALL_HIGHEST, 1), GROWTH) + 1)
    ranks = np.unique(np.concatenate([np.arange(ALL_HIGHEST), growing.astype(int), [len(pooled) - 1]]))
    ranks = ranks[ranks < len(pooled)]
    lowered = {name: np.empty_like(array) for name, array in scores.items()}
    for column in range(pooled.shape[1]):
        levels = np.unique(pooled[ranks, column])
        for name, array in scores.items():
            lowered[name][:, column] = levels[np.searchsorted(levels, array[:, column], side="right") - 1]
    return lowered


def count_in_blocks(statistics_fn: Callable) -> Callable:
    """Wraps a counting function of the package, which takes all thresholds of a recording, to take a block at a time."""

    def count(*, detection_onset_times, detection_offset_times, target_onset_times, other_onset_times, **others):
        thresholds, detections = detection_onset_times.shape
        widest = max([len(target_onset_times), *map(len, other_onset_times.values()), 1])
        step = max(1, BLOCK // max(1, detections * widest))
        blocks = [
            statistics_fn(
                detection_onset_times=detection_onset_times[first : first + step],
                detection_offset_times=detection_offset_times[first : first + step],
                target_onset_times=target_onset_times, other_onset_times=other_onset_times, **others,
            )
            for first in range(0, thresholds, step)
        ]  # fmt: skip
        return _concatenate(blocks)

    return count


def _concatenate(blocks: Sequence) -> Any:
    """Concatenates arrays, or nested dictionaries of arrays."""
    if isinstance(blocks[0], dict):
        return {key: _concatenate([block[key] for block in blocks]) for key in blocks[0]}
    return np.concatenate(blocks)


def _compute_micro_f(curves: Sequence[tuple[np.ndarray, Mapping]], thresholds: np.ndarray) -> np.ndarray:
    """Computes micro F in percent where all classes share a threshold, from the scores and counts of each class."""
    hits = total = 0
    for scores, counts in curves:
        place = np.searchsorted(scores, thresholds)  # the counts of the next score at or above the threshold
        hits = hits + counts["tps"][place]
        total = total + counts["tps"][place] + counts["fps"][place] + counts["n_ref"]
    return 200 * hits / np.asarray(total)


def _find_last_maximum(values: np.ndarray) -> int:
    return len(values) - 1 - int(np.argmax(values[::-1]))


def _finite_or_none(score: float) -> float | None:
    return float(score) if math.isfinite(score) else None


def _sample_steps(grid: np.ndarray, rate: np.ndarray, ratio: np.ndarray) -> list[float]:
    """Samples a step curve of ratio against rate at a grid of rates."""
    last = np.searchsorted(rate, grid, side="right") - 1
    return [round(float(value), 5) for value in np.where(last < 0, 0.0, ratio[np.maximum(last, 0)])]
