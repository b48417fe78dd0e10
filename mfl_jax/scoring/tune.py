"""Chooses thresholds and filters for each event on held-out recordings, which neither trained the network nor score it."""

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
from mfl_jax.runtime import storage, workdir_config
from mfl_jax.scoring import clip_scores
from mfl_jax.training.splits import split_development

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
MEDIANS_S = (0.0, 0.1, 0.22, 0.46, 0.94)
LOW_SHARES = (None, 0.8, 0.6, 0.4)
"""Of the threshold: how far down an event reaches."""
GAPS_S = (0.0, 0.1, 0.2, 0.4, 0.8)
DURATIONS_S = (0.0, 0.1, 0.2, 0.4, 0.8)
SEGMENT_S = 1.0


def _segments(active: np.ndarray, hop_s: float) -> np.ndarray:
    """[shape=(T,)] bool, the frames of a recording -> the segments of a second that any active frame overlaps."""
    nearly = 1e-9  # seconds are no whole number of hops in floating point
    segments = np.zeros(math.ceil(len(active) * hop_s / SEGMENT_S - nearly), bool)
    for first, last in postprocessing.find_runs(active):
        segments[int(first * hop_s / SEGMENT_S + nearly) : math.ceil(last * hop_s / SEGMENT_S - nearly)] = True
    return segments


def f_score(detected: Sequence[np.ndarray], active: Sequence[np.ndarray], score: str, hop_s: float) -> float:
    """F of one event over recordings.

    Args:
      detected, active: bool [shape=(T,)], an array a recording. score: `frame` or `segment` (of a second). hop_s: of a frame.

    Returns:
      2 TP / (2 TP + FP + FN), 0 for 0/0.
    """
    if score == "segment":
        detected, active = ([_segments(frames, hop_s) for frames in side] for side in (detected, active))
    hits = sum(int((d & a).sum()) for d, a in zip(detected, active, strict=True))
    both = sum(int(d.sum()) + int(a.sum()) for d, a in zip(detected, active, strict=True))
    return 2 * hits / both if both else 0.0


def choose(
    scores: Sequence[np.ndarray], active: Sequence[np.ndarray], *, start: Rule, score: str, hop_s: float
) -> tuple[Rule, float, float]:
    """Chooses the rule of one event.

    Goes through thresholds with each median filter, then through hysteresis, gaps and shortest durations, each on top of the
    best so far; what does not raise the score stays out.

    Args:
      scores: float32 [shape=(T,)], an array a recording. active: bool, likewise. start: what an event without evidence keeps.
      score, hop_s: as of `f_score`.

    Returns:
      The rule, and the F-scores of `start` and of it.
    """
    filtered = {}

    def f_of(rule):
        if rule.median_s not in filtered:
            filtered[rule.median_s] = [postprocessing.median_filter(s, rule, hop_s) for s in scores]
        detected = []
        for of_recording in filtered[rule.median_s]:
            frames = np.zeros(len(of_recording), bool)
            for first, last in postprocessing.find_event_runs(of_recording, rule, hop_s):
                frames[first:last] = True
            detected.append(frames)
        return f_score(detected, active, score, hop_s)

    before = best_f = f_of(start)
    best = start
    if not any(frames.any() for frames in active):
        return start, before, before
    ways: list[Callable[[Rule], list[dict]]] = [
        lambda rule: [{"median_s": m, "threshold": t, "low_threshold": None} for m in MEDIANS_S for t in THRESHOLDS],
        lambda rule: [{"low_threshold": share and round(share * rule.threshold, 4)} for share in LOW_SHARES],
        lambda rule: [{"max_gap_s": gap} for gap in GAPS_S],
        lambda rule: [{"min_duration_s": duration} for duration in DURATIONS_S],
    ]
    for way in ways:
        tried = [dataclasses.replace(best, **changes) for changes in way(best)]
        found = [f_of(rule) for rule in tried]
        if max(found) > best_f + 1e-12:
            best_f = max(found)
            # Of several that are equally good the one in the middle, the least at an edge, of those that filter least.
            good = [rule for rule, f in zip(tried, found, strict=True) if f > best_f - 1e-12]
            good = [rule for rule in good if rule.median_s == good[0].median_s]
            best = good[len(good) // 2]
    return best, before, best_f


def tune(config, dataset: Dataset, workdir: pathlib.Path, console: rich.console.Console | None = None) -> dict[str, Rule]:
    """Chooses a rule for each event and writes them to `postprocessing.json` in the work directory.

    Returns:
      event -> rule.

    Raises:
      InputError: there is no event task, no validation fold, or no trained network.
    """
    console = console or rich.console.Console()
    if "event" not in config.tasks:
        raise InputError("there is nothing to tune without events: config.tasks holds the scene task alone")
    if config.validation == "none":
        raise InputError(
            "tuning needs recordings that were not trained on: train with --config.validation=fold1 (to fold4), into a "
            "--workdir of its own, and tune with the same"
        )
    if not workdir_config.check_workdir(workdir, config) or not (workdir / "best").is_dir():
        raise InputError(f"{workdir}: no trained network to tune; train first (--mode=train)")
    model = trained_model.load(workdir)
    clip_scores.check_classes(model, dataset)
    clips = dataset.read("development")
    _, held_out = split_development(clips, config.validation)
    joined = list(clip_scores.recording_probabilities(model, clips, held_out).values())
    start, rules, figures = Rule(threshold=config.threshold), {}, {}
    for column, label in enumerate(rich.progress.track(model.events, "tuning", console=rich.console.Console(stderr=True))):
        scores = [np.ascontiguousarray(of_recording[:, column]) for of_recording, _ in joined]
        active = [np.ascontiguousarray(labels[:, column]) for _, labels in joined]
        rules[label], before, after = choose(scores, active, start=start, score=config.tune, hop_s=model.mel.hop_s)
        figures[label] = {"f_before": 100 * before, "f_after": 100 * after}
    file = workdir / postprocessing.RULES_FILE
    about = {"score": config.tune, "validation": config.validation, "step": model.step, "recordings": len(joined)}
    storage.atomic_write(file, postprocessing.rules_to_json(rules, **about, held_out=figures))
    _print(console, rules, figures, about)
    console.print(f"written: {file}", soft_wrap=True, highlight=False, markup=False)
    return rules


def _print(console, rules: Mapping[str, Rule], figures: Mapping, about: Mapping) -> None:
    table = rich.table.Table(title=f"F of {about['score']}s in {about['recordings']} held-out recordings, percent")
    for column in ("event", "before", "after", "threshold", "low", "median", "gap", "shortest"):
        table.add_column(column, justify="left" if column == "event" else "right")
    for label, rule in rules.items():
        times = (f"{value:g} s" if value else "" for value in (rule.median_s, rule.max_gap_s, rule.min_duration_s))
        before, after = figures[label]["f_before"], figures[label]["f_after"]
        low = "" if rule.low_threshold is None else f"{rule.low_threshold:g}"
        table.add_row(rich.markup.escape(label), f"{before:.2f}", f"{after:.2f}", f"{rule.threshold:g}", low, *times)
    console.print(table)
