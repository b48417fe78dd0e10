"""Segment-based and event-based scores of lists of events, by sed_eval. Needs the extra `eval`.

Mesaros et al. 2016, "Metrics for polyphonic sound event detection". Segment-based: an event is active in every segment that it
touches, a zero-length one in the segment that holds it, and segments are compared. Event-based: an estimated event is correct if
its label is, its onset lies within the onset collar, and its offset within the offset collar or, if larger, within a share of the
length of the reference event. Counts are summed over recordings before ratios are computed.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mfl_jax.data import event_list, spelling
from mfl_jax.data.annotation import Event
from mfl_jax.data.match_recordings import match_recordings
from mfl_jax.errors import InputError, join_first, warn
from mfl_jax.inference.prediction import DetectedEvent
from mfl_jax.scoring.eval_packages import import_eval_packages

Events = Sequence[Event] | Sequence[DetectedEvent]
"""Events of one recording; only `onset_s`, `offset_s` and `label` are read."""
KINDS = ("segment", "event")
ERRORS = {"segment": ("S", "D", "I"), "event": ("Nsubs", "Nfn", "Nfp")}
"""Kind -> sed_eval's names for the counts of substitutions, deletions and insertions."""


@dataclasses.dataclass(frozen=True)
class Tolerances:
    """When an estimate counts as correct.

    Attributes:
      segment_s: length of a segment.
      onset_collar_s: largest difference of onsets.
      offset_collar_s: largest difference of offsets, unless `offset_share` permits more.
      offset_share: largest difference of offsets as a share of the length of the reference event. DCASE task 4 uses 0.2.

    Raises:
      InputError: a value is out of range.
    """

    segment_s: float = 1.0
    onset_collar_s: float = 0.2
    offset_collar_s: float = 0.2
    offset_share: float = 0.5

    def __post_init__(self) -> None:
        for name in ("segment_s", "onset_collar_s", "offset_collar_s"):
            if not (math.isfinite(value := getattr(self, name)) and value > 0):
                raise InputError(f"{name} is {value}; it must be a number of seconds above 0")
        if not 0 <= self.offset_share <= 1:
            raise InputError(f"offset_share is {self.offset_share}; it must be a share from 0 to 1")


def score_event_lists(
    reference: Mapping[str, Events],
    estimated: Mapping[str, Events],
    *,
    labels: Sequence[str] | None = None,
    tolerances: Tolerances = Tolerances(),
) -> dict[str, Any]:
    """Compares lists of events, recording by recording.

    The reference defines the recordings. A recording without an estimate counts as one without detections, with a warning; an
    estimate for an unknown recording is refused. `match_recordings` matches their names.

    Args:
      reference: recording -> its true events.
      estimated: recording -> its estimated events.
      labels: the classes to score; other events are left out of both lists, with a warning. By default all classes of the
        reference; estimated events of other classes are then false positives.
      tolerances: when an estimate counts as correct.

    Returns:
      {"segment": ..., "event": ...}, each with
        `micro_f`, `precision`, `recall`: percent, of pooled counts.
        `macro_f`: percent, mean over `labels`; a class with 0/0 counts 0.
        `class_f`: label -> percent.
        `error_rate`, and its parts `substitution_rate`, `deletion_rate`, `insertion_rate`: ratios to the size of the reference;
          None if that is 0.
        `n_reference`, `n_estimated`: active segments over all classes, or events; `class_n_reference`, `class_n_estimated`.

    Raises:
      InputError: there is no recording, a recording is unknown, or sed_eval is not installed.
    """
    return score_matched_lists(reference, match_estimates(reference, estimated), labels, tolerances, KINDS)


def match_estimates(reference: Mapping[str, Events], estimated: Mapping[str, Events]) -> dict[str, Events]:
    """Returns the estimated events of every recording of the reference; warns about recordings without an estimate."""
    if not reference:
        raise InputError("the reference has no recording; there is nothing to score")
    matched = {name: estimated[alias] for alias, name in match_recordings(estimated, reference).items()}
    if missing := [name for name in reference if name not in matched]:
        warn(
            f"{len(missing)} of {len(reference)} recordings of the reference are not in the estimate, {missing[0]} for one; "
            "they count as recordings without detections"
        )
    return {name: matched.get(name, ()) for name in reference}


def score_matched_lists(
    reference: Mapping[str, Events],
    estimated: Mapping[str, Events],
    labels: Sequence[str] | None,
    tolerances: Tolerances,
    kinds: Sequence[str],
) -> dict[str, Any]:
    """Computes `score_event_lists` for an estimate of every recording, and only the `kinds` asked for."""
    reference_labels, estimated_labels = list_labels(reference.values()), list_labels(estimated.values())
    if not reference_labels and not estimated_labels:
        warn("neither the reference nor the estimate has an event, so there is nothing to score; all scores are 0 of 0")
    if labels is None:
        labels = reference_labels
    else:
        labels = list(dict.fromkeys(labels))
        if left_out := sorted({*reference_labels, *estimated_labels} - set(labels)):
            warn(f"events of labels that are not scored are left out: {', '.join(left_out)}")
        estimated_labels = [label for label in estimated_labels if label in labels]
    # Labels are replaced by numbers, since dcase_util takes some labels, such as `None`, for missing ones.
    numbers = {label: str(index) for index, label in enumerate(dict.fromkeys([*labels, *estimated_labels]))}
    scorers = _create_scorers([*numbers.values()], tolerances, kinds)
    for recording, events in reference.items():
        for scorer in scorers.values():
            scorer.evaluate(_to_sed_eval(events, numbers), _to_sed_eval(estimated[recording], numbers))
    return {kind: _compute_ratios(scorer, labels, numbers, ERRORS[kind]) for kind, scorer in scorers.items()}


def list_labels(recordings: Iterable[Events]) -> list[str]:
    """Returns the sorted labels of the events of several recordings."""
    return sorted({event.label for events in recordings for event in events})


def _to_sed_eval(events: Events, numbers: Mapping[str, str]) -> list[dict]:
    return [
        {"onset": float(event.onset_s), "offset": float(event.offset_s), "event_label": numbers[event.label]}
        for event in events
        if event.label in numbers
    ]


def _create_scorers(labels: list[str], tolerances: Tolerances, kinds: Sequence[str]) -> dict[str, Any]:
    sed_eval, _ = import_eval_packages()
    scorers: dict[str, Any] = {}
    if "segment" in kinds:
        scorers["segment"] = _define_segment_based_class(sed_eval)(labels, float(tolerances.segment_s))
    if "event" in kinds:
        scorers["event"] = _define_event_based_class(sed_eval)(
            labels, t_collar=float(tolerances.onset_collar_s), percentage_of_length=float(tolerances.offset_share)
        )
        scorers["event"].offset_collar_s = float(tolerances.offset_collar_s)
    return scorers


@functools.cache
def _define_segment_based_class(sed_eval: Any) -> type:
    """sed_eval's class, which for itself leaves out a zero-length event on the border of two segments."""
    base: Any = sed_eval.sound_event.SegmentBasedMetrics

    class SegmentBased(base):
        time_resolution: float

        def evaluate(self, reference_event_list, estimated_event_list, evaluated_length_seconds=None):
            lists = ([self._fill_segment(event) for event in events] for events in (reference_event_list, estimated_event_list))
            return super().evaluate(*lists, evaluated_length_seconds)

        def _fill_segment(self, event: dict) -> dict:
            """Moves the offset of an event that fills no segment to the middle of the segment of its onset."""
            first = math.floor(event["onset"] / self.time_resolution)
            if math.ceil(event["offset"] / self.time_resolution) > first:
                return event
            return {**event, "offset": (first + 0.5) * self.time_resolution}

    return SegmentBased


@functools.cache
def _define_event_based_class(sed_eval: Any) -> type:
    """sed_eval's class with an offset collar; sed_eval has one collar for onsets and offsets."""
    base: Any = sed_eval.sound_event.EventBasedMetrics

    class EventBased(base):
        offset_collar_s: float

        def validate_offset(self, reference_event, estimated_event, t_collar, percentage_of_length):
            del t_collar
            return super().validate_offset(reference_event, estimated_event, self.offset_collar_s, percentage_of_length)

    return EventBased


def _compute_ratios(scorer, labels: Sequence[str], numbers: Mapping[str, str], errors: Sequence[str]) -> dict[str, Any]:
    """Computes ratios from the counts of a scorer of sed_eval."""

    def percent(part, total):
        return 100.0 * float(part) / float(total) if total else 0.0

    def f_score(counts):
        return percent(2 * counts["Ntp"], counts["Nref"] + counts["Nsys"])

    overall, by_class = scorer.overall, {label: scorer.class_wise[numbers[label]] for label in labels}
    active = float(overall["Nref"])
    rates = [float(overall[key]) / active for key in errors] if active else [None] * len(errors)
    class_f = {label: f_score(counts) for label, counts in by_class.items()}
    return {
        "micro_f": f_score(overall),
        "macro_f": sum(class_f.values()) / len(class_f) if class_f else 0.0,
        "precision": percent(overall["Ntp"], overall["Nsys"]),
        "recall": percent(overall["Ntp"], overall["Nref"]),
        "error_rate": sum(rate for rate in rates if rate is not None) if active else None,
        **dict(zip(("substitution_rate", "deletion_rate", "insertion_rate"), rates, strict=True)),
        "class_f": class_f,
        "n_reference": int(overall["Nref"]),
        "n_estimated": int(overall["Nsys"]),
        "class_n_reference": {label: int(counts["Nref"]) for label, counts in by_class.items()},
        "class_n_estimated": {label: int(counts["Nsys"]) for label, counts in by_class.items()},
    }


def score_event_files(
    reference_file: str | pathlib.Path,
    estimated_file: str | pathlib.Path,
    *,
    labels: Sequence[str] | None = None,
    tolerances: Tolerances = Tolerances(),
) -> dict[str, Any]:
    """Compares two files of events.

    If each file is about one recording and one of them does not name it, they belong together.

    Args:
      reference_file: the true events, in any format of `event_list.read_event_list`.
      estimated_file: the estimated events, likewise.
      labels: as for `score_event_lists`.
      tolerances: as for `score_event_lists`.

    Returns:
      The result of `score_event_lists`, and `reference`, `estimated` (the files), `recordings` (their number), `settings`.

    Raises:
      InputError: a list is invalid, or `score_event_lists` refuses it.
    """
    labels = None if labels is None else [spelling.normalise_label(label) for label in labels]
    reference, unannotated, reference_unnamed = _read_lists(reference_file)
    estimated, _, estimated_unnamed = _read_lists(estimated_file)
    if len(reference) == len(estimated) == 1 and (reference_unnamed or estimated_unnamed):
        estimated = {next(iter(reference)): next(iter(estimated.values()))}
    elif estimated_unnamed and not any(estimated.values()) and pathlib.Path(estimated_file).is_file():
        estimated = {}  # an empty file: no detection in any recording
    try:
        matched = match_estimates(reference, estimated)
        if unannotated:
            warn(
                f"events are not annotated in {len(unannotated)} of {len(reference)} recordings of {reference_file}, which are "
                f"left out: {join_first(unannotated)}"
            )
            reference = {name: events for name, events in reference.items() if name not in unannotated}
        if not reference:
            raise InputError("the reference has no recording with annotated events; there is nothing to score")
        scores = score_matched_lists(reference, matched, labels, tolerances, KINDS)
    except InputError as error:
        raise InputError(f"{estimated_file} against {reference_file}: {error}") from None
    return {
        "reference": str(reference_file),
        "estimated": str(estimated_file),
        "recordings": len(reference),
        "settings": {"labels": None if labels is None else list(labels), **dataclasses.asdict(tolerances)},
        **scores,
    }


def _read_lists(file: str | pathlib.Path) -> tuple[dict[str, Sequence[Event]], list[str], bool]:
    """Returns the events of each recording, those not annotated, and whether the file holds one recording without naming it."""
    recordings = event_list.read_recordings(file)
    lists: dict[str, Sequence[Event]] = {recording.path: recording.events for recording in recordings}
    unannotated = [recording.path for recording in recordings if not recording.events_annotated]
    return lists, unannotated, len(lists) == 1 and spelling.normalise_name(pathlib.Path(file).stem) in lists
