"""Chooses post-processing rules for each event on held-out recordings, which are used neither for training nor for scoring."""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import rich.console
import rich.markup
import rich.progress
import rich.table

from mfl_jax.data.prepared_dataset import Dataset
from mfl_jax.errors import InputError
from mfl_jax.inference import postprocessing, trained_model
from mfl_jax.inference.postprocessing import Rule
from mfl_jax.inference.trained_model import TrainedModel
from mfl_jax.runtime import storage, workdir_config
from mfl_jax.scoring import clip_scores
from mfl_jax.training.splits import split_development

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


def compute_f_score(detected: Sequence[np.ndarray], active: Sequence[np.ndarray], score: str, hop_s: float) -> float:
    """Computes the F-score of one event over recordings.

    Args:
      detected: one array per recording, bool [shape=(T,)].
      active: the labels, likewise.
      score: `frame` or `segment` (of a second).
      hop_s: seconds per frame.

    Returns:
      2 TP / (2 TP + FP + FN), 0 for 0/0.
    """
    if score == "segment":
        detected, active = ([_to_segments(frames, hop_s) for frames in side] for side in (detected, active))
    hits = sum(int((d & a).sum()) for d, a in zip(detected, active, strict=True))
    total = sum(int(d.sum()) + int(a.sum()) for d, a in zip(detected, active, strict=True))
    return 2 * hits / total if total else 0.0


def choose_rule(
    scores: Sequence[np.ndarray], active: Sequence[np.ndarray], *, start: Rule, score: str, hop_s: float
) -> tuple[Rule, float, float]:
    """Chooses the rule of one event.

    Tries all thresholds with each median filter, then hysteresis, gaps and shortest durations, each on top of the best rule so
    far. A step that does not raise the score is not used.

    Args:
      scores: one array per recording, float32 [shape=(T,)].
      active: the labels, bool [shape=(T,)].
      start: the rule to begin with, which an event without labels keeps.
      score: as for `compute_f_score`.
      hop_s: seconds per frame.

    Returns:
      The rule, and the F-scores of `start` and of the rule.
    """
    filtered: dict[float, list[np.ndarray]] = {}

    def score_rule(rule: Rule) -> float:
        if rule.median_s not in filtered:
            filtered[rule.median_s] = [postprocessing.median_filter(s, rule, hop_s) for s in scores]
        detected = [_detect_frames(recording, rule, hop_s) for recording in filtered[rule.median_s]]
        return compute_f_score(detected, active, score, hop_s)

    before = best_f = score_rule(start)
    best = start
    if not any(frames.any() for frames in active):
        return start, before, before
    for list_changes in STAGES:
        candidates = [dataclasses.replace(best, **changes) for changes in list_changes(best)]
        f_scores = [score_rule(rule) for rule in candidates]
        if max(f_scores) > best_f + TOLERANCE:
            best_f = max(f_scores)
            # Of equally good rules take those with the shortest median filter, and of these the one in the middle.
            good = [rule for rule, f in zip(candidates, f_scores, strict=True) if f > best_f - TOLERANCE]
            good = [rule for rule in good if rule.median_s == good[0].median_s]
            best = good[len(good) // 2]
    return best, before, best_f


def _detect_frames(filtered: np.ndarray, rule: Rule, hop_s: float) -> np.ndarray:
    """Marks the frames of the events in filtered scores: [shape=(T,)] -> bool [shape=(T,)]."""
    frames = np.zeros(len(filtered), bool)
    for first, last in postprocessing.find_event_runs(filtered, rule, hop_s):
        frames[first:last] = True
    return frames


def tune(config, dataset: Dataset, workdir: pathlib.Path, console: rich.console.Console | None = None) -> dict[str, Rule]:
    """Chooses a rule for each event and writes them to `postprocessing.json` in the work directory.

    Args:
      config: config of the run.
      dataset: its prepared data.
      workdir: its work directory.
      console: where to print the rules.

    Returns:
      Event -> rule.

    Raises:
      InputError: there is no event task, no validation fold, or no trained network.
    """
    console = console or rich.console.Console()
    model = _load_model(config, dataset, workdir)
    clips = dataset.read("development")
    _, held_out = split_development(clips, config.validation)
    recordings = list(clip_scores.compute_recording_probabilities(model, clips, held_out).values())
    start, rules, f_scores = Rule(threshold=config.threshold), {}, {}
    for column, label in enumerate(rich.progress.track(model.events, "tuning", console=rich.console.Console(stderr=True))):
        scores = [np.ascontiguousarray(probabilities[:, column]) for probabilities, _ in recordings]
        active = [np.ascontiguousarray(labels[:, column]) for _, labels in recordings]
        rules[label], before, after = choose_rule(scores, active, start=start, score=config.tune, hop_s=model.mel.hop_s)
        f_scores[label] = {"f_before": 100 * before, "f_after": 100 * after}
    file = workdir / postprocessing.RULES_FILE
    about = {"score": config.tune, "validation": config.validation, "step": model.step, "recordings": len(recordings)}
    storage.atomic_write(file, postprocessing.rules_to_json(rules, **about, held_out=f_scores))
    _print_rules(console, rules, f_scores, about)
    console.print(f"written: {file}", soft_wrap=True, highlight=False, markup=False)
    return rules


def _load_model(config, dataset: Dataset, workdir: pathlib.Path) -> TrainedModel:
    """Loads the model of a run that can be tuned."""
    if "event" not in config.tasks:
        raise InputError("there is nothing to tune without events: config.tasks has only the scene task")
    if config.validation == "none":
        raise InputError(
            "tuning needs recordings that were not trained on: train with --config.validation=fold1 (to fold4) in a separate "
            "--workdir, and tune with the same flags"
        )
    if not workdir_config.check_workdir(workdir, config) or not (workdir / "best").is_dir():
        raise InputError(f"{workdir}: no trained network to tune; train first (--mode=train)")
    model = trained_model.load(workdir)
    clip_scores.check_classes(model, dataset)
    return model


def _print_rules(
    console: rich.console.Console, rules: Mapping[str, Rule], f_scores: Mapping[str, Mapping[str, float]], about: Mapping
) -> None:
    table = rich.table.Table(title=f"F of {about['score']}s in {about['recordings']} held-out recordings, percent")
    for column in ("event", "before", "after", "threshold", "low", "median", "gap", "shortest"):
        table.add_column(column, justify="left" if column == "event" else "right")
    for label, rule in rules.items():
        times = (f"{value:g} s" if value else "" for value in (rule.median_s, rule.max_gap_s, rule.min_duration_s))
        before, after = f_scores[label]["f_before"], f_scores[label]["f_after"]
        low = "" if rule.low_threshold is None else f"{rule.low_threshold:g}"
        table.add_row(rich.markup.escape(label), f"{before:.2f}", f"{after:.2f}", f"{rule.threshold:g}", low, *times)
    console.print(table)
