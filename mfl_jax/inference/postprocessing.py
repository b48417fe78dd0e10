"""Turns frame scores into events: thresholds with hysteresis, median filter, gap closing and shortest duration, for each event.

The paper's scores use none of this; they compare each frame with one threshold.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.ndimage

from mfl_jax import metrics
from mfl_jax.data import spelling
from mfl_jax.errors import InputError, warn
from mfl_jax.inference.prediction import DetectedEvent

RULES_FILE = "postprocessing.json"
"""Name of the file, in the folder of a run, with the rules that `--mode=tune` chose, or thresholds from a cross-validation."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """How the scores of an event class become events. The fields apply in this order; times are rounded to whole frames.

    Attributes:
      median_s: length of a median filter over the scores, rounded to an odd number of frames; one frame means no filter.
      threshold: an event has at least one frame with this score.
      low_threshold: an event extends as far as scores are at least this (hysteresis); None means `threshold`.
      max_gap_s: events at most this far apart are merged.
      min_duration_s: events shorter than this, after all of the above, are dropped.

    Raises:
      ValueError: a time is negative or not finite, or 0 < low_threshold <= threshold <= 1 does not hold.
    """

    median_s: float = 0.0
    threshold: float = metrics.THRESHOLD
    low_threshold: float | None = None
    max_gap_s: float = 0.0
    min_duration_s: float = 0.0

    def __post_init__(self) -> None:
        times = (self.median_s, self.max_gap_s, self.min_duration_s)
        if not all(math.isfinite(value) and value >= 0 for value in times):
            raise ValueError(f"times must be finite and >= 0 ({self})")
        if not 0 < self.lowest <= self.threshold <= 1:
            raise ValueError(f"0 < low_threshold <= threshold <= 1 does not hold ({self})")

    @property
    def lowest(self) -> float:
        """The score that every frame of an event reaches."""
        return self.threshold if self.low_threshold is None else self.low_threshold


def median_filter(scores: np.ndarray, rule: Rule, hop_s: float) -> np.ndarray:
    """Applies the median filter of a rule to the scores of one event [shape=(T,)], repeating the first and last score."""
    frames = round(rule.median_s / hop_s)
    frames += 1 - frames % 2  # an odd window has a middle frame
    return scores if frames < 3 else scipy.ndimage.median_filter(scores, frames, mode="nearest")


def find_runs(active: np.ndarray) -> np.ndarray:
    """Finds the runs of True in a bool array [shape=(T,)].

    Returns:
      int [shape=(n, 2)]: first frame of each run, and the frame after its last.
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], active, [False]]).astype(np.int8)))
    return edges.reshape(-1, 2)


def find_event_runs(filtered: np.ndarray, rule: Rule, hop_s: float) -> np.ndarray:
    """Finds the events of one class.

    Args:
      filtered: scores after `median_filter` [shape=(T,)].
      rule: the rule of the class.
      hop_s: seconds per frame.

    Returns:
      int [shape=(n, 2)], as from `find_runs`.
    """
    # Compare as float32, as the frame evaluation does.
    filtered = np.asarray(filtered, np.float32)
    runs = find_runs(filtered >= np.float32(rule.lowest))
    if rule.lowest < rule.threshold and len(runs):
        peaks = np.maximum.reduceat(np.append(filtered, 0), runs.ravel())[::2]
        runs = runs[peaks >= np.float32(rule.threshold)]
    # Half a frame of tolerance: seconds are not exact multiples of the hop in floating point.
    if rule.max_gap_s > 0 and len(runs):
        separate = (runs[1:, 0] - runs[:-1, 1]) * hop_s > rule.max_gap_s + hop_s / 2
        runs = np.stack([runs[np.r_[True, separate], 0], runs[np.r_[separate, True], 1]], axis=1)
    if rule.min_duration_s > 0:
        runs = runs[(runs[:, 1] - runs[:, 0]) * hop_s > rule.min_duration_s - hop_s / 2]
    return runs


def check_rules(rules: Mapping[str, Rule], events: Sequence[str]) -> None:
    """Raises an InputError if a rule is for a label that is not among `events`."""
    if unknown := [label for label in rules if label not in events]:
        raise InputError(f"the rules name the event {unknown[0]!r}; the model knows {', '.join(events) or 'no events'}")


def find_runs_by_event(
    frame_scores: np.ndarray, events: Sequence[str], rules: Mapping[str, Rule], hop_s: float
) -> list[np.ndarray]:
    """Applies the rule of each event to its column of `frame_scores` [shape=(T, E)]; returns runs as `find_event_runs` does."""
    check_rules(rules, events)
    runs = []
    for column, label in enumerate(events):
        rule = rules.get(label, Rule())
        filtered = median_filter(np.ascontiguousarray(frame_scores[:, column]), rule, hop_s)
        runs.append(find_event_runs(filtered, rule, hop_s))
    return runs


def detect_events(
    frame_scores: np.ndarray, events: Sequence[str], rules: Mapping[str, Rule], *, hop_s: float, duration_s: float
) -> tuple[DetectedEvent, ...]:
    """Detects the events of a recording.

    Args:
      frame_scores: probability of each event in each frame [shape=(T, E)].
      events: labels of the columns.
      rules: rule of each event; `Rule()` for events without one.
      hop_s: seconds per frame.
      duration_s: length of the recording.

    Returns:
      The events, sorted by onset, then by label.

    Raises:
      InputError: a rule is for none of `events`.
    """
    detected = []
    for column, runs in enumerate(find_runs_by_event(frame_scores, events, rules, hop_s)):
        for first, end in runs:
            confidence = float(frame_scores[first:end, column].mean(dtype=np.float64))
            onset_s, offset_s = (round(float(seconds), 6) for seconds in (first * hop_s, min(end * hop_s, duration_s)))
            detected.append(DetectedEvent(onset_s, offset_s, events[column], confidence))
    return tuple(sorted(detected, key=lambda event: (event.onset_s, event.label)))


def mark_detected_frames(frame_scores: np.ndarray, events: Sequence[str], rules: Mapping[str, Rule], hop_s: float) -> np.ndarray:
    """Marks the frames in which each event is detected: bool, same shape as `frame_scores`."""
    detected = np.zeros(frame_scores.shape, bool)
    for column, runs in enumerate(find_runs_by_event(frame_scores, events, rules, hop_s)):
        for first, end in runs:
            detected[first:end, column] = True
    return detected


def rules_to_json(rules: Mapping[str, Rule], **metadata) -> str:
    """Formats rules as JSON, for `read_rules`, with `metadata` as further top-level keys."""
    fields = {label: dataclasses.asdict(rule) for label, rule in rules.items()}
    return json.dumps({**metadata, "rules": fields}, indent=1) + "\n"


def read_rules(file: str | pathlib.Path, events: Sequence[str], *, step: int | None = None) -> dict[str, Rule]:
    """Reads the rules of a model.

    Args:
      file: JSON with an object `rules` that maps each event to fields of `Rule`. Missing fields have their defaults. The rule of
        `*` applies to all events without one.
      events: the event classes of the model.
      step: step of the model's checkpoint. A warning is printed if the rules were chosen for another one.

    Returns:
      The rule of every event, in the order of `events`.

    Raises:
      InputError: names the file, and the event and value that are invalid.
    """
    rule_fields, chosen_at = _read_rules_json(file)
    if None not in (step, chosen_at) and step != chosen_at:
        warn(f"{file}: chosen for the checkpoint of step {chosen_at} but used with step {step}; run --mode=tune again")
    rules = {}
    for label, fields in rule_fields.items():
        known = label if label == "*" else spelling.find_label(label, events)
        if known is None:
            raise InputError(f"{file}: unknown event {label!r}; the model knows {', '.join(events)}")
        try:
            values: dict[str, Any] = {name: None if value is None else float(value) for name, value in fields.items()}
            rules[known] = Rule(**values)
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(f"{file}, {label!r}: {error}") from None
    default = rules.pop("*", Rule())
    return {label: rules.get(label, default) for label in events}


def _read_rules_json(file: str | pathlib.Path) -> tuple[dict, int | None]:
    """Returns the fields of each rule, unchecked, and the step of the checkpoint that they were chosen for."""
    try:
        content = json.loads(pathlib.Path(file).read_text(encoding="utf-8"))
        return dict(content["rules"]), content.get("step")
    except OSError as error:
        raise InputError(f"{file}: post-processing rules not readable ({error.strerror}); --mode=tune writes them") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{file}: invalid post-processing rules; expected JSON with 'rules', the fields of each event") from None
