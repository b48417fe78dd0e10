"""Scores of sound event detection as the field computes them: by segments, by events with collars, and without a threshold.

sed_eval compares lists of events (Mesaros et al. 2016, "Metrics for polyphonic sound event detection"); sed_scores_eval goes
through all thresholds of frame scores at once (Ebbers et al. 2022, "Threshold-independent evaluation of sound event detection
scores") and computes the PSDS (Bilen et al. 2020, "A framework for the robust evaluation of sound event detection").

Segment-based: an event is active in a segment that it touches, and segments are compared. Event-based: an estimated event is
right if its label is, its onset lies within the onset collar and its offset within the offset collar, or within a share of
the length of the reference event where that is more. Counts of all recordings are added before any ratio is taken.

Where the two packages differ, and what is done here:

- A class of which nothing was estimated, or of which the reference holds nothing, has no F in sed_eval (NaN), which leaves it out
  of its macro average. Here its F is 0, also with 0/0. sed_scores_eval counts the first as 0 and refuses the second; such
  a class has no best F, no average precision and no PSDS here.
- sed_eval compares times as they are, so that 2.2 s lies outside of a collar of 0.2 s around 2 s in floating point.
  sed_scores_eval rounds to microseconds first, and may find a few more hits: 0.03 points of F on the DESED validation set.
- Both pair events of one label by a maximum matching, and both let an offset differ by the larger of the collar and the
  share. sed_eval counts overlapping events of one label one by one; sed_scores_eval refuses events of a label that touch.
  They are one event here wherever all thresholds are gone through.
- A score that is equal to the threshold is no detection for sed_scores_eval. It is one here, as everywhere in this package.
- sed_eval calls a missed and a false event within the collars of each other a substitution. That enters the error rate alone.
"""

import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import rich.console
import rich.markup
import rich.table

from mfl_jax import metrics
from mfl_jax.data import event_list
from mfl_jax.data.annotation import Event
from mfl_jax.data.match_recordings import match_recordings
from mfl_jax.errors import InputError, warn
from mfl_jax.inference import postprocessing
from mfl_jax.scoring import threshold_sweep

KINDS = ("segment", "event", "psds")
PSDS = {
    "psds1": {"dtc_threshold": 0.7, "gtc_threshold": 0.7, "cttc_threshold": None, "alpha_ct": 0.0, "alpha_st": 1.0},
    "psds2": {"dtc_threshold": 0.1, "gtc_threshold": 0.1, "cttc_threshold": 0.3, "alpha_ct": 0.5, "alpha_st": 1.0},
}
"""The two scenarios of DCASE 2021 and 2022, task 4: one wants exact times, the other no confusion of classes."""


def score_lists(
    reference: Mapping[str, Sequence],
    estimated: Mapping[str, Sequence],
    *,
    labels: Sequence[str] | None = None,
    segment_s: float = 1.0,
    onset_collar_s: float = 0.2,
    offset_collar_s: float = 0.2,
    offset_share: float = 0.5,
) -> dict:
    """Compares lists of events by sed_eval, recording by recording.

    The reference says which recordings there are. One without an estimate counts as one in which nothing was detected, with a
    warning; an estimate for any other recording is refused. `match_recordings` says which names mean the same.

    Args:
      reference, estimated: recording -> its events, with `onset_s`, `offset_s` (seconds) and `label`.
      labels: the classes to score; events of others are left out of both lists, with a warning. By default all of the reference;
        an estimated event of any other label is a false one then.
      segment_s: length of a segment.
      onset_collar_s: by how much an onset may differ.
      offset_collar_s, offset_share: an offset may differ by the larger of the two, the second a share of the length of the
        reference event. DCASE task 4 has the share 0.2.

    Returns:
      {"segment": ..., "event": ...}, each with
        `micro_f`, `precision`, `recall`: percent, of pooled counts.
        `macro_f`: percent, mean over `labels`; a class with 0/0 counts 0.
        `class_f`: label -> percent.
        `error_rate`, and its parts `substitution_rate`, `deletion_rate`, `insertion_rate`: ratios to what the reference holds;
          None where it holds nothing.
        `n_reference`, `n_estimated`: active segments over all classes, or events; `class_n_reference`, `class_n_estimated`.

    Raises:
      InputError: a setting makes no sense, there is no recording, a recording is unknown, or sed_eval is not installed.
    """
    settings = _checked(
        segment_s=segment_s, onset_collar_s=onset_collar_s, offset_collar_s=offset_collar_s, offset_share=offset_share
    )  # fmt: skip
    return _score_lists(reference, _estimates_of(reference, estimated), labels, settings, ("segment", "event"))


def _checked(**settings: float) -> dict[str, float]:
    """The settings as they are; an InputError where one makes no sense."""
    for name, value in settings.items():
        if name == "offset_share":
            if not 0 <= value <= 1:
                raise InputError(f"offset_share is {value}; it is a share from 0 to 1")
        elif not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} is {value}; it is a number of seconds above 0")
    return settings


def _estimates_of(reference: Mapping[str, Sequence], estimated: Mapping[str, Sequence]) -> dict[str, Sequence]:
    """The estimated events of every recording of the reference."""
    if not reference:
        raise InputError("the reference holds no recording; there is nothing to score")
    found = {name: estimated[other] for other, name in match_recordings(estimated, reference).items()}
    if missing := [name for name in reference if name not in found]:
        warn(
            f"{len(missing)} of {len(reference)} recordings of the reference are not in the estimate, {missing[0]} for one; "
            "they count as recordings in which nothing was detected"
        )
    return {name: found.get(name, ()) for name in reference}


def _score_lists(reference, estimated, labels, settings, kinds) -> dict:
    """`score_lists` of checked settings, with an estimate for every recording of the reference."""
    sed_eval, _ = threshold_sweep.packages()
    in_reference, in_estimate = _labels(reference.values()), _labels(estimated.values())
    if labels is None:
        labels = in_reference
    else:
        labels = list(dict.fromkeys(labels))
        if left_out := sorted({*in_reference, *in_estimate} - set(labels)):
            warn(f"events of these labels are left out, since they are not among those to score: {', '.join(left_out)}")
        in_estimate = [label for label in in_estimate if label in labels]
    counted = [*labels, *(label for label in in_estimate if label not in labels)]
    # Labels go by number, since dcase_util takes some for no label at all, as `None`.
    number = {label: str(index) for index, label in enumerate(counted)}
    scorers = {}
    if "segment" in kinds:
        scorers["segment"] = sed_eval.sound_event.SegmentBasedMetrics([*number.values()], float(settings["segment_s"]))
    if "event" in kinds:
        scorers["event"] = _event_based(sed_eval)(
            [*number.values()],
            t_collar=float(settings["onset_collar_s"]),
            percentage_of_length=float(settings["offset_share"]),
        )
        scorers["event"].offset_collar_s = float(settings["offset_collar_s"])

    def rows(events):
        return [
            {"onset": float(event.onset_s), "offset": float(event.offset_s), "event_label": number[event.label]}
            for event in events
            if event.label in number
        ]

    for recording, events in reference.items():
        for scorer in scorers.values():
            scorer.evaluate(rows(events), rows(estimated[recording]))
    errors = {"segment": ("S", "D", "I"), "event": ("Nsubs", "Nfn", "Nfp")}
    return {kind: _ratios(scorer, labels, number, errors[kind]) for kind, scorer in scorers.items()}


def _event_based(sed_eval):
    class EventBased(sed_eval.sound_event.EventBasedMetrics):
        """sed_eval's, whose one collar would hold for offsets too."""

        offset_collar_s: float

        def validate_offset(self, reference_event, estimated_event, t_collar, percentage_of_length):
            del t_collar
            return super().validate_offset(reference_event, estimated_event, self.offset_collar_s, percentage_of_length)

    return EventBased


def _labels(lists: Iterable[Sequence]) -> list[str]:
    return sorted({event.label for events in lists for event in events})


def _ratios(scorer, labels: Sequence[str], number: Mapping[str, str], errors: Sequence[str]) -> dict:
    """The ratios of what sed_eval has counted."""

    def percent(part, whole):
        return 100.0 * float(part) / float(whole) if whole else 0.0

    def f(counts):
        return percent(2 * counts["Ntp"], counts["Nref"] + counts["Nsys"])

    overall, by_class = scorer.overall, {label: scorer.class_wise[number[label]] for label in labels}
    active = float(overall["Nref"])
    rates = [float(overall[key]) / active if active else None for key in errors]
    class_f = {label: f(counts) for label, counts in by_class.items()}
    return {
        "micro_f": f(overall),
        "macro_f": sum(class_f.values()) / len(class_f) if class_f else 0.0,
        "precision": percent(overall["Ntp"], overall["Nsys"]),
        "recall": percent(overall["Ntp"], overall["Nref"]),
        "error_rate": sum(rates) if active else None,
        **dict(zip(("substitution_rate", "deletion_rate", "insertion_rate"), rates, strict=True)),
        "class_f": class_f,
        "n_reference": int(overall["Nref"]),
        "n_estimated": int(overall["Nsys"]),
        "class_n_reference": {label: int(counts["Nref"]) for label, counts in by_class.items()},
        "class_n_estimated": {label: int(counts["Nsys"]) for label, counts in by_class.items()},
    }


def score_frames(
    frame_scores: Mapping[str, np.ndarray],
    reference: Mapping[str, Sequence],
    events: Sequence[str],
    *,
    hop_s: float,
    durations_s: Mapping[str, float],
    kinds: Sequence[str] = KINDS,
    threshold: float = metrics.THRESHOLD,
    detected: Mapping[str, Sequence] | None = None,
    segment_s: float = 1.0,
    onset_collar_s: float = 0.2,
    offset_collar_s: float = 0.2,
    offset_share: float = 0.5,
) -> dict:
    """Scores frame scores of recordings: at a threshold, and without one.

    Reference events end with their recording, and those that start past its end are left out, with a warning. Where all
    thresholds are gone through, events of a label that touch or overlap are one event, and one of zero length lasts as long
    as the frame that holds it.

    Every score is a threshold as long as no recording has more than 2000 frames. Otherwise some 300 scores of each class are
    (but for segments), the highest ones closest to each other: operating points are exact then, but fewer, so that areas and
    best F of a class are at most what all thresholds would give. Where classes share a threshold, each takes the next of its
    own at or above it.

    Args:
      frame_scores: recording -> [shape=(T, E)]; frame t covers [t, t + 1) * hop_s.
      reference: recording -> its events, with `onset_s`, `offset_s` and `label`. Its recordings are those of `frame_scores`;
        `match_recordings` says which names mean the same.
      events: the classes, names of the columns.
      hop_s: seconds of a frame. durations_s: of each recording of `frame_scores`.
      kinds: what to compute, of `segment`, `event` and `psds`.
      threshold: an event is active in a frame where its score is at least this.
      detected: events that were detected, e.g. after post-processing, instead of those that `threshold` makes.
      segment_s, onset_collar_s, offset_collar_s, offset_share: as of `score_lists`.

    Returns:
      What JSON holds:
        `segment`, `event`: what `score_lists` returns of the detected events, all of `events` being scored, and
          `best`: None without any reference event, or what the best thresholds would give, chosen on this very reference:
            `micro_f` with one `threshold` for all classes; `macro_f`, each class with its own; `class`, label -> `f`,
            `precision`, `recall`, `threshold`. Percent. A threshold is None where no detection is better than none at all.
          `average_precision` (segment alone): `mean` and `class`, areas from 0 to 1.
        `psds1`, `psds2`: None without any reference event, or `psds` and `class_psds`, areas from 0 to 1; curves to draw:
          `false_per_hour`, the effective rate of false positives, 0 to 100 in steps of 1, and at these rates `tp_ratio`, the
          mean over classes less their standard deviation, and `class_tp_ratio`.
        `recordings`, `hours`, and `thresholds`: `all` or `sampled`.
        `without_reference`: classes without a reference event; they are in none of the figures that go through all thresholds.

    Raises:
      InputError: a setting makes no sense, recordings do not match, or a package is missing.
      ValueError: an array has another shape or is no number.
    """
    settings = _checked(
        segment_s=segment_s, onset_collar_s=onset_collar_s, offset_collar_s=offset_collar_s, offset_share=offset_share
    )  # fmt: skip
    if unknown := sorted(set(kinds) - set(KINDS)):
        raise ValueError(f"{unknown[0]!r} is no kind of score; there are {', '.join(KINDS)}")
    if not frame_scores:
        raise InputError("there is no recording to score")
    _check_scores(frame_scores, events, hop_s, durations_s)
    name_of = match_recordings(frame_scores, reference)
    if missing := sorted(set(reference) - set(name_of.values())):
        raise InputError(f"the recording {missing[0]!r} of the reference has no scores")
    if unknown := sorted({*_labels(reference.values())} - set(events)):
        raise InputError(f"the reference holds events of {unknown[0]!r}, of which there are no scores")
    if detected is not None and (unknown := sorted(set(detected) - set(frame_scores))):
        raise ValueError(f"events were detected in {unknown[0]!r}, of which there are no scores")
    true = {name: _cut(reference[name_of[name]], float(durations_s[name])) for name in frame_scores}
    if lost := sum(map(len, reference.values())) - sum(map(len, true.values())):
        warn(f"events of the reference that start past the end of their recordings are left out: {lost}")
    lists = [kind for kind in kinds if kind != "psds"]
    if detected is None:
        rules = dict.fromkeys(events, postprocessing.Rule(threshold=threshold)) if lists else {}
        detected = {
            name: postprocessing.detect_events(scores, events, rules, hop_s=hop_s, duration_s=durations_s[name]) if lists else ()
            for name, scores in frame_scores.items()
        }
    result = _score_lists(true, {name: detected.get(name, ()) for name in true}, events, settings, lists) if lists else {}
    sweep = threshold_sweep.Sweep(frame_scores, true, events, hop_s, durations_s)
    if "segment" in kinds:
        result["segment"].update(sweep.segments(segment_s))
    if "event" in kinds:
        result["event"].update(sweep.collars(onset_collar_s, offset_collar_s, offset_share))
    if "psds" in kinds:
        result.update({name: sweep.psds(**scenario) for name, scenario in PSDS.items()})
    return {
        **result,
        "recordings": len(true),
        "hours": sum(float(durations_s[name]) for name in true) / 3600,
        "thresholds": "sampled" if sweep.sampled else "all",
        "without_reference": [label for label in events if label not in sweep.labels],
    }


def _check_scores(frame_scores, events, hop_s, durations_s) -> None:
    if len(set(events)) != len(events) or not len(events):
        raise ValueError(f"events are different labels, at least one, not {list(events)}")
    for name, scores in frame_scores.items():
        if np.ndim(scores) != 2 or scores.shape[1] != len(events) or not len(scores):
            raise ValueError(f"{name}: scores are [frames, {len(events)}], not {np.shape(scores)}")
        if np.isnan(scores).any():
            raise ValueError(f"{name}: a score is NaN")
        if name not in durations_s or abs(len(scores) * hop_s - durations_s[name]) > hop_s + 1e-6:
            raise ValueError(f"{name}: {len(scores)} frames of {hop_s} s do not make {durations_s.get(name)} s")


def _cut(events: Sequence, duration_s: float) -> list[Event]:
    """The events of a recording as far as it goes."""
    return [Event(event.onset_s, min(event.offset_s, duration_s), event.label) for event in events if event.onset_s < duration_s]


def evaluate_lists(reference_file: str | pathlib.Path, estimated_file: str | pathlib.Path, **settings) -> dict:
    """Compares two lists of events.

    Where each list is about one recording and one of the two does not name it, they belong together.

    Args:
      reference_file, estimated_file: as `event_list.read_event_list` reads them.
      settings: as of `score_lists`.

    Returns:
      What `score_lists` returns, and `reference`, `estimated` (the files), `recordings` (their number), `settings`.

    Raises:
      InputError: a list is wrong, or what `score_lists` refuses; one line.
    """
    lists = []
    for file in (reference_file, estimated_file):
        read = event_list.read_event_list(file)
        lists.append((read, len(read) == 1 and pathlib.Path(file).stem in read))
    (reference, reference_unnamed), (estimated, estimated_unnamed) = lists
    if len(reference) == len(estimated) == 1 and (reference_unnamed or estimated_unnamed):
        estimated = {next(iter(reference)): next(iter(estimated.values()))}
    elif estimated_unnamed and not any(estimated.values()) and pathlib.Path(estimated_file).is_file():
        estimated = {}  # an empty file: nothing was detected anywhere
    try:
        scores = score_lists(reference, estimated, **settings)
    except InputError as error:
        raise InputError(f"{estimated_file} against {reference_file}: {error}") from None
    used = {**score_lists.__kwdefaults__, **settings}
    return {
        "reference": str(reference_file),
        "estimated": str(estimated_file),
        "recordings": len(reference),
        "settings": {name: list(value) if name == "labels" and value is not None else value for name, value in used.items()},
        **scores,
    }


def print_scores(scores: Mapping, console: rich.console.Console | None = None) -> None:
    """Prints what `score_lists`, `evaluate_lists` or `score_frames` return: a table over all classes, and one by class."""
    console = console or rich.console.Console()
    kinds = [kind for kind in ("segment", "event") if kind in scores]
    areas = [name for name in PSDS if scores.get(name)]

    def number(value):
        return "" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)

    if kinds:
        overall = rich.table.Table(title="all classes")
        overall.add_column("")
        for kind in kinds:
            overall.add_column(f"{kind}-based", justify="right")
        rows = {
            "micro_f": "micro F, %", "macro_f": "macro F, %", "precision": "precision, %", "recall": "recall, %",
            "error_rate": "error rate", "substitution_rate": "  substitutions", "deletion_rate": "  deletions",
            "insertion_rate": "  insertions", "n_reference": "in the reference", "n_estimated": "estimated",
        }  # fmt: skip
        for key, name in rows.items():
            overall.add_row(name, *(number(scores[kind][key]) for kind in kinds))
        for key, name in {"micro_f": "best micro F, %", "threshold": "  at threshold", "macro_f": "best macro F, %"}.items():
            if any(scores[kind].get("best") for kind in kinds):
                overall.add_row(name, *(number((scores[kind].get("best") or {}).get(key)) for kind in kinds))
        console.print(overall)
    for name in areas:
        console.print(f"{name.upper()}: {scores[name]['psds']:.4f}")
    by_class = rich.table.Table(title=f"by class: F in percent, numbers of {kinds[-1] if kinds else ''}s")
    by_class.add_column("event", overflow="fold", min_width=12)
    for heading in [f"{kind} F" for kind in kinds] + ["ref.", "est."] * bool(kinds):
        by_class.add_column(heading, justify="right")
    for name in areas:
        by_class.add_column(name.upper(), justify="right")
    labels = scores[kinds[0]]["class_f"] if kinds else scores[areas[0]]["class_psds"] if areas else ()
    for label in labels:
        cells = [number(scores[kind]["class_f"][label]) for kind in kinds]
        cells += [number(scores[kind][key][label]) for kind in kinds[-1:] for key in ("class_n_reference", "class_n_estimated")]
        cells += [number(scores[name]["class_psds"].get(label)) for name in areas]
        by_class.add_row(rich.markup.escape(label), *cells)
    if labels:
        console.print(by_class)
