"""From frame scores to events: thresholds with hysteresis, median filters, gaps and shortest durations, each event's own.

None of it enters the paper's scores, which compare each frame with one threshold.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.ndimage

from mfl_jax import metrics
from mfl_jax.errors import InputError, warn
from mfl_jax.inference.prediction import DetectedEvent

FILE = "postprocessing.json"
"""Name, in the folder of a run, of what was chosen for it."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """How the scores of one event become events, in this order. Times mean the nearest number of frames.

    Attributes:
      median_s: length of a median filter over the scores, made an odd number of frames; one frame is no filter.
      threshold: an event holds at least one frame with this score.
      low_threshold: it reaches as far as scores are at least this (hysteresis); None: as far as they are at least `threshold`.
      max_gap_s: two events with no more than this between them become one.
      min_duration_s: what is shorter after all that is dropped.
    """

    median_s: float = 0.0
    threshold: float = metrics.THRESHOLD
    low_threshold: float | None = None
    max_gap_s: float = 0.0
    min_duration_s: float = 0.0

    def __post_init__(self):
        times = (self.median_s, self.max_gap_s, self.min_duration_s)
        if not all(math.isfinite(value) and value >= 0 for value in times):
            raise ValueError(f"times are numbers of seconds from 0 up ({self})")
        if not 0 < self.lowest <= self.threshold <= 1:
            raise ValueError(f"0 < low_threshold <= threshold <= 1 does not hold ({self})")

    @property
    def lowest(self) -> float:
        """Score that all frames of an event have."""
        return self.threshold if self.low_threshold is None else self.low_threshold


def median_filtered(scores: np.ndarray, rule: Rule, hop_s: float) -> np.ndarray:
    """Scores of one event [shape=(T,)] after the median filter of a rule; the first and last score go on beyond the ends."""
    frames = round(rule.median_s / hop_s)
    frames += 1 - frames % 2  # a window has a middle
    return scores if frames < 3 else scipy.ndimage.median_filter(scores, frames, mode="nearest")


def runs(active: np.ndarray) -> np.ndarray:
    """Where a bool array [shape=(T,)] is True without a break: int [shape=(n, 2)], first frame and the one after the last."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], active, [False]]).astype(np.int8)))
    return edges.reshape(-1, 2)


def active_runs(filtered: np.ndarray, rule: Rule, hop_s: float) -> np.ndarray:
    """The events in filtered scores [shape=(T,)], as `runs` gives them."""
    # A score is compared as float32, as the evaluation of frames does it.
    filtered = np.asarray(filtered, np.float32)
    found = runs(filtered >= np.float32(rule.lowest))
    if rule.lowest < rule.threshold and len(found):
        highest = np.maximum.reduceat(np.append(filtered, 0), found.ravel())[::2]
        found = found[highest >= np.float32(rule.threshold)]
    if rule.max_gap_s > 0 and len(found):
        # Half a frame of tolerance, since seconds are no whole number of hops in floating point.
        apart = (found[1:, 0] - found[:-1, 1]) * hop_s > rule.max_gap_s + hop_s / 2
        found = np.stack([found[np.r_[True, apart], 0], found[np.r_[apart, True], 1]], axis=1)
    if rule.min_duration_s > 0:
        found = found[(found[:, 1] - found[:, 0]) * hop_s > rule.min_duration_s - hop_s / 2]
    return found


def event_runs(frame_scores: np.ndarray, events: Sequence[str], rules: Mapping[str, Rule], hop_s: float) -> list[np.ndarray]:
    """The frames of the events of each column of `frame_scores` [shape=(T, E)], as `runs` gives them."""
    found = []
    for column, label in enumerate(events):
        rule = rules.get(label, Rule())
        filtered = median_filtered(np.ascontiguousarray(frame_scores[:, column]), rule, hop_s)
        found.append(active_runs(filtered, rule, hop_s))
    return found


def detect(
    frame_scores: np.ndarray, events: Sequence[str], rules: Mapping[str, Rule], *, hop_s: float, duration_s: float
) -> tuple[DetectedEvent, ...]:
    """The events of a recording.

    Args:
      frame_scores: [shape=(T, E)]. events: names of the columns.
      rules: of each event; `Rule()` where one has none. hop_s: seconds of a frame. duration_s: of the recording.

    Returns:
      Its events, by onset, then by label.
    """
    found = []
    for column, of_event in enumerate(event_runs(frame_scores, events, rules, hop_s)):
        for first, last in of_event:
            confidence = float(frame_scores[first:last, column].mean(dtype=np.float64))
            onset_s, offset_s = (round(float(seconds), 6) for seconds in (first * hop_s, min(last * hop_s, duration_s)))
            found.append(DetectedEvent(onset_s, offset_s, events[column], confidence))
    return tuple(sorted(found, key=lambda event: (event.onset_s, event.label)))


def detected_frames(frame_scores: np.ndarray, events: Sequence[str], rules: Mapping[str, Rule], hop_s: float) -> np.ndarray:
    """The frames in which each event is detected: bool, of the shape of `frame_scores`."""
    detected = np.zeros(frame_scores.shape, bool)
    for column, of_event in enumerate(event_runs(frame_scores, events, rules, hop_s)):
        for first, last in of_event:
            detected[first:last, column] = True
    return detected


def to_json(rules: Mapping[str, Rule], **about) -> str:
    """What `read` reads, with `about` beside it."""
    return json.dumps({**about, "rules": {label: dataclasses.asdict(rule) for label, rule in rules.items()}}, indent=1) + "\n"


def read(file: str | pathlib.Path, events: Sequence[str], *, step: int | None = None) -> dict[str, Rule]:
    """Reads rules.

    Args:
      file: JSON with `rules`: for each event the fields of `Rule`; those left out have their defaults. A rule named `*` is that
        of all events without one.
      events: the vocabulary of the model. step: of its checkpoint; a warning says so where rules were chosen for another one.

    Raises:
      InputError: names the file, the event and the value at fault.
    """
    try:
        given = json.loads(pathlib.Path(file).read_text(encoding="utf-8"))
        items, chosen_at = dict(given["rules"]).items(), given.get("step")
    except OSError as error:
        raise InputError(f"{file}: post-processing is not readable ({error.strerror}); --mode=tune chooses it") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{file}: no post-processing; that is JSON with 'rules', the fields of each event") from None
    if None not in (step, chosen_at) and step != chosen_at:
        warn(
            f"{file}: chosen for the checkpoint of step {chosen_at}, and used with that of step {step}; --mode=tune chooses anew"
        )
    rules = {}
    for label, fields in items:
        if label != "*" and label not in events:
            raise InputError(f"{file}: there is no event {label!r} in the model, but {', '.join(events)}")
        try:
            rules[label] = Rule(**{name: None if value is None else float(value) for name, value in fields.items()})
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(f"{file}, {label!r}: {error}") from None
    others = rules.pop("*", Rule())
    return {label: rules.get(label, others) for label in events}
