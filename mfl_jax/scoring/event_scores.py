"""Scores of sound event detection from frame scores: by segments, by events with collars, and without a threshold.

sed_eval compares lists of events (see `event_list_scores`). sed_scores_eval evaluates all thresholds of frame scores at once
(Ebbers et al. 2022, "Threshold-independent evaluation of sound event detection scores") and computes the PSDS (Bilen et al.
2020, "A framework for the robust evaluation of sound event detection").

Conventions, where the two packages differ:

- A class without estimated events, or without reference events, has no F in sed_eval (NaN), which leaves it out of its macro
  average. Here its F is 0, also for 0/0. sed_scores_eval counts the first case as 0 and refuses the second; here such a
  class has no best F, no average precision and no PSDS.
- sed_eval compares times without rounding, so that in floating point 2.2 s lies outside a collar of 0.2 s around 2 s.
  sed_scores_eval rounds to microseconds first, and may count a few more hits: 0.03 points of F on the DESED validation set.
- Both match events of one label by a maximum matching, and both let offsets differ by the larger of collar and share.
  sed_eval counts overlapping events of one label separately; sed_scores_eval refuses events of one label that touch. Here
  they are merged wherever all thresholds are evaluated.
- A score equal to the threshold is not a detection for sed_scores_eval. Here it is, as everywhere in this package.
- sed_eval counts a missed and a false event within the collars of each other as a substitution. Only the error rate depends on
  that.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mfl_jax import metrics
from mfl_jax.data import spelling
from mfl_jax.data.annotation import Event
from mfl_jax.data.match_recordings import match_recordings
from mfl_jax.errors import InputError, warn
from mfl_jax.inference import postprocessing
from mfl_jax.scoring import event_list_scores
from mfl_jax.scoring.event_list_scores import Events, Tolerances
from mfl_jax.scoring.threshold_sweep import ThresholdSweep

KINDS = (*event_list_scores.KINDS, "psds")
PSDS: dict[str, dict[str, Any]] = {
    "psds1": {"dtc_threshold": 0.7, "gtc_threshold": 0.7, "cttc_threshold": None, "alpha_ct": 0.0, "alpha_st": 1.0},
    "psds2": {"dtc_threshold": 0.1, "gtc_threshold": 0.1, "cttc_threshold": 0.3, "alpha_ct": 0.5, "alpha_st": 1.0},
}
"""The two scenarios of DCASE 2021 and 2022, task 4: the first requires exact times, the second penalises confused classes."""


def score_frames(
    frame_scores: Mapping[str, np.ndarray],
    reference: Mapping[str, Events],
    events: Sequence[str],
    *,
    hop_s: float,
    durations_s: Mapping[str, float],
    kinds: Sequence[str] = KINDS,
    threshold: float = metrics.THRESHOLD,
    detected: Mapping[str, Events] | None = None,
    tolerances: Tolerances = Tolerances(),  # noqa: B008 (immutable)
) -> dict[str, Any]:
    """Scores frame scores of recordings: at a threshold, and over all thresholds.

    Reference events are cut at the end of their recording; those that start after it are left out, with a warning. Over all
    thresholds, events of one label that touch or overlap are merged, and a zero-length event lasts as long as its frame.

    Args:
      frame_scores: recording -> [shape=(T, E)]; frame t covers [t, t + 1) * hop_s.
      reference: recording -> its true events, for the recordings of `frame_scores`; `match_recordings` matches names.
      events: the classes, names of the columns.
      hop_s: seconds per frame.
      durations_s: recording of `frame_scores` -> seconds.
      kinds: some of `segment`, `event` and `psds`.
      threshold: an event is active in a frame if its score is at least this.
      detected: recording -> detected events, e.g. after post-processing, instead of those given by `threshold`.
      tolerances: when a detected event counts as correct.

    Returns:
      A dictionary that JSON can hold:
        `segment`, `event`: the scores of the detected events as `score_event_lists` returns them, over all `events`, and
          `best`: scores at the best thresholds, chosen on this very reference; None without reference events:
            `micro_f` with one `threshold` for all classes; `macro_f`, each class with its own; `class`, label -> `f`,
            `precision`, `recall`, `threshold`. Percent. A threshold is None if no detection is better than none at all.
          `average_precision` (segment only): `mean` and `class`, areas from 0 to 1.
        `psds1`, `psds2`: `psds` and `class_psds`, areas from 0 to 1, and curves to draw: `false_per_hour`, the effective rate
          of false positives, 0 to 100 in steps of 1, and at these rates `tp_ratio`, the mean over classes minus their standard
          deviation, and `class_tp_ratio`. None without reference events.
        `recordings`, `hours`, and `thresholds`: `all` or `sampled`.
        `without_reference`: classes without a reference event, which all figures over thresholds leave out.

    Raises:
      InputError: recordings do not match, or a package is missing.
      ValueError: an array has the wrong shape or holds NaN.
    """
    _check_kinds(kinds)
    _check_scores(frame_scores, events, hop_s, durations_s, detected)
    true = _match_reference(reference, frame_scores, events, durations_s)
    detected = _detect(frame_scores, events, threshold, hop_s, durations_s) if detected is None else detected
    estimated = {name: detected.get(name, ()) for name in true}
    result = event_list_scores.score_matched_lists(true, estimated, events, tolerances, kinds)
    sweep = ThresholdSweep(frame_scores, true, events, hop_s, durations_s)
    _add_threshold_scores(result, sweep, kinds, tolerances)
    return {
        **result,
        "recordings": len(true),
        "hours": sum(float(durations_s[name]) for name in true) / 3600,
        "thresholds": "sampled" if sweep.sampled else "all",
        "without_reference": [label for label in events if label not in sweep.labels],
    }


def _add_threshold_scores(result: dict[str, Any], sweep: ThresholdSweep, kinds: Sequence[str], tolerances: Tolerances) -> None:
    """Adds the scores over all thresholds to those of the detected events."""
    if "segment" in kinds:
        result["segment"].update(sweep.score_segments(tolerances.segment_s))
    if "event" in kinds:
        collars = (tolerances.onset_collar_s, tolerances.offset_collar_s, tolerances.offset_share)
        result["event"].update(sweep.score_collars(*collars))
    if "psds" in kinds:
        result.update({name: sweep.compute_psds(**scenario) for name, scenario in PSDS.items()})


def _check_kinds(kinds: Sequence[str]) -> None:
    if unknown := sorted(set(kinds) - set(KINDS)):
        raise ValueError(f"{unknown[0]!r} is not a kind of score; kinds are {', '.join(KINDS)}")


def _check_scores(
    frame_scores: Mapping[str, np.ndarray],
    events: Sequence[str],
    hop_s: float,
    durations_s: Mapping[str, float],
    detected: Mapping[str, Events] | None,
) -> None:
    if not frame_scores:
        raise InputError("there is no recording to score")
    if len(set(events)) != len(events) or not len(events):
        raise ValueError(f"events must be one or more different labels, not {list(events)}")
    for name, scores in frame_scores.items():
        if np.ndim(scores) != 2 or scores.shape[1] != len(events) or not len(scores):
            raise ValueError(f"{name}: scores must be [frames, {len(events)}], not {np.shape(scores)}")
        if np.isnan(scores).any():
            raise ValueError(f"{name}: a score is NaN")
        if name not in durations_s or abs(len(scores) * hop_s - durations_s[name]) > hop_s + 1e-6:
            raise ValueError(f"{name}: {len(scores)} frames of {hop_s} s do not last {durations_s.get(name)} s")
    if detected is not None and (unknown := sorted(set(detected) - set(frame_scores))):
        raise ValueError(f"events were detected in {unknown[0]!r}, which has no scores")


def _match_reference(
    reference: Mapping[str, Events],
    frame_scores: Mapping[str, np.ndarray],
    events: Sequence[str],
    durations_s: Mapping[str, float],
) -> dict[str, list[Event]]:
    """Returns the reference events of every recording of `frame_scores`, cut at its end."""
    names = match_recordings(frame_scores, reference)
    if missing := sorted(set(reference) - set(names.values())):
        raise InputError(f"the recording {missing[0]!r} of the reference has no scores")
    columns = {label: spelling.find_label(label, events) for label in event_list_scores.list_labels(reference.values())}
    if unknown := [label for label, column in columns.items() if column is None]:
        raise InputError(f"the reference has events of {unknown[0]!r}, which has no scores")
    true = {name: _cut_events(reference[names[name]], columns, float(durations_s[name])) for name in frame_scores}
    if left_out := sum(map(len, reference.values())) - sum(map(len, true.values())):
        warn(f"events of the reference that start after the end of their recordings are left out: {left_out}")
    return true


def _cut_events(events: Events, columns: Mapping[str, str | None], duration_s: float) -> list[Event]:
    """Cuts events at the end of their recording and gives them the labels of their columns."""
    return [
        Event(event.onset_s, min(event.offset_s, duration_s), columns[event.label] or event.label)
        for event in events
        if event.onset_s < duration_s
    ]


def _detect(
    frame_scores: Mapping[str, np.ndarray],
    events: Sequence[str],
    threshold: float,
    hop_s: float,
    durations_s: Mapping[str, float],
) -> dict[str, Events]:
    """Returns the events of each recording at one threshold, without post-processing."""
    rules = dict.fromkeys(events, postprocessing.Rule(threshold=threshold))
    return {
        name: postprocessing.detect_events(scores, events, rules, hop_s=hop_s, duration_s=durations_s[name])
        for name, scores in frame_scores.items()
    }
