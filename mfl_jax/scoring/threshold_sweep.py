"""All thresholds of frame scores at once, by sed_scores_eval: what the best ones give, and the PSDS. Needs the extra `eval`."""

import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from mfl_jax.data.annotation import Event
from mfl_jax.errors import InputError

MAX_FALSE_PER_HOUR = 100.0
"""Effective false positives an hour up to which the area of the PSDS goes."""
EXACT_FRAMES = 2000
"""With recordings of no more frames, every score is a threshold. The work grows with the cube of the length."""
ALL_HIGHEST, GROWTH = 100, 1.05
"""With longer ones, thresholds are the hundred highest scores of a class, then those at ranks that grow by 5 %."""
BLOCK = 1 << 22
"""Pairs of events that are compared at once, over thresholds: what they need stays below a few hundred megabytes."""


def packages():
    """sed_eval and sed_scores_eval; an InputError where they are missing."""
    try:
        with warnings.catch_warnings():
            # dcase_util, below both, still imports pkg_resources; and texts of theirs hold backslashes that Python warns of
            # while it compiles them.
            warnings.filterwarnings("ignore", message="pkg_resources is deprecated", category=UserWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", category=SyntaxWarning)
            import sed_eval
            import sed_scores_eval
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is missing: pip install -e '.[eval]' brings what scores events") from None
    return sed_eval, sed_scores_eval


def _apart(events: Sequence[Event], hop_s: float, duration_s: float) -> list[tuple[float, float, str]]:
    """(onset, offset, label) of events of which none is empty and none touches another one of its label."""
    apart: list[tuple[float, float, str]] = []
    for event in sorted(events, key=lambda event: (event.label, event.onset_s)):
        # Microseconds, as the package compares them: an event of no microsecond would be found by no detection at all.
        onset_s, offset_s = round(event.onset_s, 6), round(event.offset_s, 6)
        if onset_s == offset_s:
            # The quotients may miss a whole number by a rounding error.
            frame = min(math.floor(onset_s / hop_s + 1e-6), math.ceil(duration_s / hop_s - 1e-6) - 1)
            onset_s, offset_s = round(frame * hop_s, 6), round(min((frame + 1) * hop_s, duration_s), 6)
        if apart and apart[-1][2] == event.label and onset_s <= apart[-1][1]:
            onset_s, offset_s = apart[-1][0], max(offset_s, apart.pop()[1])
        apart.append((onset_s, offset_s, event.label))
    return apart


class Sweep:
    """Goes through all thresholds of frame scores by sed_scores_eval."""

    def __init__(self, frame_scores, true, events, hop_s, durations_s):
        _, self.package = packages()
        self.durations_s = {name: round(float(durations_s[name]), 6) for name in true}
        apart = {name: _apart(true[name], hop_s, self.durations_s[name]) for name in true}
        in_reference = {label for rows in apart.values() for _, _, label in rows}
        self.labels = [label for label in events if label in in_reference]
        # Classes go by number, since the package has names of columns and of averages beside them.
        number = {label: str(index) for index, label in enumerate(self.labels)}
        self.label = {index: label for label, index in number.items()}
        self.reference = {name: [(onset, offset, number[label]) for onset, offset, label in rows] for name, rows in apart.items()}
        columns = [list(events).index(label) for label in self.labels]
        scores = {name: np.asarray(array)[:, columns].astype(np.float64) for name, array in frame_scores.items()}
        self.sampled = max(map(len, scores.values())) > EXACT_FRAMES
        self.exact = self._frames(scores, hop_s) if self.labels else {}
        self.scores = self._frames(_sampled(scores), hop_s) if self.labels and self.sampled else self.exact

    def _frames(self, scores, hop_s):
        create = self.package.base_modules.scores.create_score_dataframe
        frames = {}
        for name, array in scores.items():
            edges = np.arange(len(array) + 1) * hop_s
            if edges[-2] < self.durations_s[name] < edges[-1]:
                edges[-1] = self.durations_s[name]  # the last frame ends with the recording
            frames[name] = create(array, np.round(edges, 6), [*self.label])
        return frames

    def segments(self, segment_s: float) -> dict:
        if not self.labels:
            return {"best": None, "average_precision": None}
        statistics, _ = self.package.segment_based.accumulated_intermediate_statistics(
            self.exact, self.reference, self.durations_s, segment_length=float(segment_s)
        )
        average, _ = self.package.base_modules.precision_recall.average_precision_from_intermediate_statistics(statistics)
        of_class = {label: float(average[index]) for index, label in self.label.items()}
        return {"best": self._best(statistics), "average_precision": {"mean": float(average["mean"]), "class": of_class}}

    def collars(self, onset_collar_s: float, offset_collar_s: float, offset_share: float) -> dict:
        if not self.labels:
            return {"best": None}
        module = self.package.collar_based.intermediate_statistics
        collars = {"onset_collar": onset_collar_s, "offset_collar": offset_collar_s, "offset_collar_rate": offset_share}
        deltas = self._deltas(module, **collars)
        statistics, _ = module.accumulated_intermediate_statistics(None, self.reference, deltas=deltas, **collars)
        return {"best": self._best(statistics)}

    def psds(self, *, alpha_ct: float, cttc_threshold: float | None, alpha_st: float, **criteria) -> dict | None:
        if not self.labels:
            return None
        if len(self.labels) == 1:  # there is no other class to confuse it with
            alpha_ct, cttc_threshold = 0.0, None
        criteria["cttc_threshold"] = cttc_threshold
        deltas = self._deltas(self.package.intersection_based.intermediate_statistics, **criteria)
        area, class_area, (ratio, rate), class_curves = self.package.intersection_based.psds(
            None, self.reference, self.durations_s, deltas=deltas, alpha_ct=alpha_ct, alpha_st=alpha_st,
            max_efpr=MAX_FALSE_PER_HOUR, **criteria,
        )  # fmt: skip
        grid = np.linspace(0, MAX_FALSE_PER_HOUR, 101)

        def at_grid(ratio, rate):
            last = np.searchsorted(rate, grid, side="right") - 1
            return [round(float(value), 5) for value in np.where(last < 0, 0.0, ratio[np.maximum(last, 0)])]

        return {
            "psds": float(area),
            "class_psds": {label: float(class_area[index]) for index, label in self.label.items()},
            "false_per_hour": grid.tolist(),
            "tp_ratio": at_grid(ratio, rate),
            "class_tp_ratio": {label: at_grid(*class_curves[index][:2]) for index, label in self.label.items()},
        }

    def _deltas(self, module, **criteria):
        """How the counts of each recording change at each of its scores, as the package has it, but in blocks of thresholds."""
        return self.package.base_modules.statistics.intermediate_statistics_deltas(
            self.scores, self.reference, intermediate_statistics_fn=_in_blocks(module.statistics_fn),
            acceleration_fn=module.acceleration_fn, time_decimals=6, **criteria,
        )  # fmt: skip

    def _best(self, statistics) -> dict:
        curve = self.package.base_modules.precision_recall.fscore_curve_from_intermediate_statistics
        of_class, curves = {}, {}
        for index, label in self.label.items():
            f, precision, recall, scores, counts = curve(statistics[index])
            # The highest threshold among equals.
            best = len(f) - 1 - int(np.argmax(f[::-1]))
            of_class[label] = {
                "f": 100 * float(f[best]), "precision": 100 * float(precision[best]), "recall": 100 * float(recall[best]),
                "threshold": _threshold(scores[best]),
            }  # fmt: skip
            curves[label] = scores, counts
        common = np.unique(np.concatenate([scores for scores, _ in curves.values()]))
        hits = total = 0
        for scores, counts in curves.values():
            # Where the threshold falls below a score, all events count that have at least this score.
            place = np.searchsorted(scores, common)
            hits = hits + counts["tps"][place]
            total = total + counts["tps"][place] + counts["fps"][place] + counts["n_ref"]
        micro = 200 * hits / total
        best = len(micro) - 1 - int(np.argmax(micro[::-1]))
        return {
            "micro_f": float(micro[best]),
            "threshold": _threshold(common[best]),
            "macro_f": float(np.mean([entry["f"] for entry in of_class.values()])),
            "class": of_class,
        }


def _threshold(score: float) -> float | None:
    return float(score) if math.isfinite(score) else None


def _sampled(scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scores lowered to the next of some 300 scores of their class: what is at or above any of these stays so."""
    pooled = np.sort(np.concatenate([*scores.values()]), axis=0)[::-1]
    growing = ALL_HIGHEST * GROWTH ** np.arange(math.log(max(len(pooled) / ALL_HIGHEST, 1), GROWTH) + 1)
    ranks = np.unique(np.concatenate([np.arange(ALL_HIGHEST), growing.astype(int), [len(pooled) - 1]]))
    ranks = ranks[ranks < len(pooled)]
    lower = {name: np.empty_like(array) for name, array in scores.items()}
    for column in range(pooled.shape[1]):
        levels = np.unique(pooled[ranks, column])
        for name, array in scores.items():
            lower[name][:, column] = levels[np.searchsorted(levels, array[:, column], side="right") - 1]
    return lower


def _in_blocks(statistics_fn):
    """The counts of a recording at all of its thresholds, a block of thresholds after another."""

    def counts(*, detection_onset_times, detection_offset_times, target_onset_times, other_onset_times, **others):
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
        return _joined(blocks)

    return counts


def _joined(blocks: Sequence):
    if isinstance(blocks[0], dict):
        return {key: _joined([block[key] for block in blocks]) for key in blocks[0]}
    return np.concatenate(blocks)
