"""Chooses post-processing rules for each event on held-out recordings, which are used neither for training nor for scoring."""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import rich.console
import rich.markup
import rich.progress
import rich.table
import scipy.special

from mfl_jax.data.prepared_dataset import Dataset
from mfl_jax.errors import InputError
from mfl_jax.inference import postprocessing, trained_model
from mfl_jax.inference.postprocessing import Rule
from mfl_jax.inference.trained_model import TrainedModel
from mfl_jax.runtime import storage, workdir_config
from mfl_jax.scoring import clip_scores, cross_fit
from mfl_jax.scoring.rule_search import RuleCounts, choose_rule, compute_f
from mfl_jax.training import score_histograms
from mfl_jax.training.splits import split_development

CHOSEN_ON = "on the recordings it was chosen on, so it is too high"
CHECKPOINT_CHOSEN_ON = "the best checkpoint was chosen on all of them, so it may still be a little too high"


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
    recordings = clip_scores.compute_recording_probabilities(model, clips, held_out)
    parts, missing = _divide(dataset, {path: len(labels) for path, (_, labels) in recordings.items()})
    start, rules = Rule(threshold=config.threshold), {}
    counts: dict[str, dict[str, np.ndarray]] = {"before": {}, "after": {}, "cross_fitted": {}}
    for column, label in enumerate(rich.progress.track(model.events, "tuning", console=rich.console.Console(stderr=True))):
        scores = [np.ascontiguousarray(probabilities[:, column]) for probabilities, _ in recordings.values()]
        active = [np.ascontiguousarray(labels[:, column]) for _, labels in recordings.values()]
        count = RuleCounts(scores, active, config.tune, model.mel.hop_s)
        rules[label] = choose_rule(count, start)
        counts["before"][label], counts["after"][label] = count(start).sum(0), count(rules[label]).sum(0)
        if parts is not None:
            choose = functools.partial(choose_rule, count, start)
            counts["cross_fitted"][label] = cross_fit.pool_counts(parts, choose, count)
    file = workdir / postprocessing.RULES_FILE
    about = {"score": config.tune, "validation": config.validation, "step": model.step, "recordings": len(recordings)}
    figures = _summarise(counts, parts, missing) | {"one_threshold": _choose_one_threshold(recordings)}
    storage.atomic_write(file, postprocessing.rules_to_json(rules, **about, **figures))
    _print_rules(console, rules, figures, about)
    console.print(f"written: {file}", soft_wrap=True, highlight=False, markup=False)
    return rules


def _choose_one_threshold(recordings: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Chooses one threshold for all events, without filters, by macro F over frames."""
    probabilities, active = (np.concatenate(arrays) for arrays in zip(*recordings.values(), strict=True))
    logits, labels = (jnp.asarray(array)[None] for array in (scipy.special.logit(probabilities), active))
    histogram = score_histograms.count_scores(logits, labels, jnp.ones(labels.shape[:2], bool))
    return score_histograms.choose_one_threshold(np.asarray(histogram, np.int64))


def _divide(dataset: Dataset, frames: Mapping[str, int]) -> tuple[np.ndarray | None, str]:
    """Divides the held-out recordings, path -> frames, as `cross_fit.divide_recordings`."""
    try:
        listed = {recording.path: recording for recording in dataset.recordings("development")}
    except InputError as error:  # an older version prepared the data set
        return None, str(error)
    return cross_fit.divide_recordings([listed[path] for path in frames], frames)


def _summarise(counts: Mapping[str, Mapping[str, np.ndarray]], parts: np.ndarray | None, missing: str) -> dict[str, Any]:
    """Computes F in percent, of each event and over all; these are keys of `postprocessing.json`."""
    f = {way: {label: 100 * compute_f(count) for label, count in by_label.items()} for way, by_label in counts.items()}
    total = {
        way: {"micro_f": 100 * compute_f(np.array([*by_label.values()])), "macro_f": float(np.mean([*f[way].values()]))}
        for way, by_label in counts.items()
        if by_label
    }
    figures: dict[str, Any] = {
        "chosen_on": f"F after tuning is {CHOSEN_ON}",
        "held_out": {label: {"f_before": f["before"][label], "f_after": f["after"][label]} for label in f["after"]},
        "held_out_total": {way: total[way] for way in ("before", "after")},
        "cross_fitted": None,
    }
    if parts is None:
        return figures | {"cross_fitted_missing": missing}
    sizes = [int((parts == part).sum()) for part in np.unique(parts)]
    about = {"class_f": f["cross_fitted"], "recordings": sizes, "checkpoint": CHECKPOINT_CHOSEN_ON}
    return figures | {"cross_fitted": total["cross_fitted"] | about}


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


def _print_rules(console: rich.console.Console, rules: Mapping[str, Rule], figures: Mapping[str, Any], about: Mapping) -> None:
    table = rich.table.Table(title=f"F of {about['score']}s in {about['recordings']} held-out recordings, percent")
    for column in ("event", "before", "after", "cross-fitted", "threshold", "low", "median", "gap", "shortest"):
        table.add_column(column, justify="left" if column == "event" else "right")
    cross_fitted, total = figures["cross_fitted"], figures["held_out_total"]
    for label, rule in rules.items():
        times = (f"{value:g} s" if value else "" for value in (rule.median_s, rule.max_gap_s, rule.min_duration_s))
        low = "" if rule.low_threshold is None else f"{rule.low_threshold:g}"
        before_after = (f"{f:.2f}" for f in figures["held_out"][label].values())
        honest = f"{cross_fitted['class_f'][label]:.2f}" if cross_fitted else ""
        table.add_row(rich.markup.escape(label), *before_after, honest, f"{rule.threshold:g}", low, *times)
    table.add_section()
    for key, name in (("micro_f", "all, micro F"), ("macro_f", "all, macro F")):
        honest = f"{cross_fitted[key]:.2f}" if cross_fitted else ""
        table.add_row(name, *(f"{total[way][key]:.2f}" for way in ("before", "after")), honest)
    console.print(table)
    lines = [f"after: {CHOSEN_ON}"]
    if cross_fitted:
        lines.append(f"cross-fitted: each quarter of the recordings with rules chosen on the others; {CHECKPOINT_CHOSEN_ON}")
    else:
        lines.append(f"no cross-fitted F: {figures['cross_fitted_missing']}")
    one = figures["one_threshold"]
    about_one = f"{one['threshold']:.3f}, mean F {one['macro_f']:.2f} of frames, {CHOSEN_ON}"
    lines.append(f"one threshold for all events, without filters: {about_one}")
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
