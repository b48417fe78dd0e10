"""Evaluates a trained run: from its checkpoint to scores, their floors, results.json and the counts beside it."""

import contextlib
import json
import pathlib
from typing import Any

import numpy as np
import rich.console

from mfl_jax.data.prepared_dataset import Dataset
from mfl_jax.errors import InputError, warn
from mfl_jax.inference import postprocessing, trained_model
from mfl_jax.inference.trained_model import TrainedModel
from mfl_jax.runtime import parallel, workdir_config, workdir_lock
from mfl_jax.scoring import clip_scores, event_scores, floor_scores, fold_thresholds, score_tables
from mfl_jax.training import config_checks, evaluation, histogram_file, recording_counts, score_histograms
from mfl_jax.training.checkpoints import Checkpoints
from mfl_jax.training.setup import build_run
from mfl_jax.training.splits import split_development


def evaluate_run(
    config, dataset: Dataset, workdir: pathlib.Path, console: rich.console.Console | None = None
) -> dict[str, Any] | None:
    """Scores a trained run on the evaluation split and writes results.json, `recording_counts.FILE` and `histogram_file.FILE`.

    Uses the last checkpoint, as in the paper; with `validation`, the best one on the held-out fold.

    Args:
      config: config of the run.
      dataset: its prepared data.
      workdir: its work directory.
      console: where to print the scores.

    Returns:
      The contents of results.json; None on all hosts but the first, which writes it.

    Raises:
      InputError: there is no checkpoint, its classes differ from those of the data set, or the system has no events to score;
        or the run is part of a cross-validation, whose scores this would replace.
    """
    folder = "checkpoints" if config.validation == "none" else "best"
    if not workdir_config.check_workdir(workdir, config) or not (workdir / folder).is_dir():
        raise InputError(f"{workdir}: no checkpoint to evaluate; train first (--mode=train)")
    kinds = config_checks.requested_event_scores(config)
    membership = _read_membership(workdir)
    run = build_run(config, dataset)
    with workdir_lock.lock_workdir(workdir):
        scored = _score_frames_and_clips(config, dataset, workdir / folder, run)
        if scored is None:
            return None
        results, counts, histogram = scored
        results |= membership
        if config.validation == "none" and (trained := results["checkpoint"]["epoch"]) < config.epochs:
            warn(f"{workdir}: trained for {trained} of {config.epochs} epochs; these are the scores of an unfinished run")
        if kinds:
            results["event_scores"] = score_events(config, dataset, workdir, kinds)
        recording_counts.write_counts(workdir, counts)
        if histogram is not None:
            histogram_file.write_histogram(workdir, histogram, dataset.events)
        evaluation.write_results(workdir / "results.json", results)
    console = console or rich.console.Console()
    score_tables.print_results(results, console)
    if kinds:
        score_tables.print_event_scores(results["event_scores"], console)
    console.print(f"written: {workdir / 'results.json'}")
    return results


def _read_membership(workdir: pathlib.Path) -> dict[str, Any]:
    """Returns the keys of results.json that the report of the run's experiment needs; empty for other runs."""
    file = workdir / "results.json"
    before = {}
    with contextlib.suppress(FileNotFoundError, ValueError):  # an unreadable file is replaced
        before = json.loads(file.read_text(encoding="utf-8"))
    if before.get("fold"):
        raise InputError(
            f"{file} holds the scores on {before['split']} for a cross-validation; --mode=evaluate would replace them by scores "
            "on the evaluation split. Evaluate a copy of the folder without results.json"
        )
    return {key: before[key] for key in ("member", "fold") if key in before}


def _score_frames_and_clips(
    config, dataset: Dataset, folder: pathlib.Path, run
) -> tuple[dict[str, Any], recording_counts.Counts, np.ndarray | None] | None:
    """Computes the scores of the newest checkpoint in a folder, the counts by recording, and the histogram of event scores.

    Returns None on all hosts but the first.
    """
    with Checkpoints(folder, keep=2, together=True) as checkpoints:
        if (resumed := checkpoints.resume(run.initial)) is None:
            raise InputError(f"{folder.parent}: no checkpoint to evaluate; train first (--mode=train)")
    state, metadata = resumed
    for kind in ("scenes", "events"):
        if tuple(metadata[kind]) != getattr(dataset, kind):
            raise InputError(f"{folder.parent} was trained on other {kind} than {dataset.directory} has")
    clips = dataset.read("evaluation", min_clip_share=config.min_clip_share)
    numbers = np.arange(len(clips))
    sums = evaluation.accumulate_counts(run.eval_step, state, run.scalars, clips, numbers, config.batch_size, run.rows)
    training = _score_training(config, dataset, run, state) if metadata.get("fingerprint") == dataset.fingerprint else {}
    if not parallel.is_first_host():
        return None
    floors = floor_scores.prepare_floors(dataset, clips, numbers)(sums["by_clip"])
    which = "last" if folder.name == "checkpoints" else "best"
    results = evaluation.build_results(
        config, dataset, sums, floors,
        split="evaluation",
        checkpoint={"which": which, "step": int(state.step), "epoch": metadata["epoch"]},
        devices=run.devices,
    ) | training  # fmt: skip
    if (threshold := _read_one_threshold(folder.parent, int(state.step))) is not None:
        one = score_histograms.score_one_threshold(sums["event"]["histogram"], threshold)
        results["event_probabilities"]["tuned_threshold"] = one
    if config.thresholds_from and "event" in config.tasks:
        thresholds = fold_thresholds.read_thresholds(config.thresholds_from, config.name, dataset.events, dataset.fingerprint)
        of_folds = fold_thresholds.score_thresholds(thresholds, sums["event"]["histogram"])
        results["event_probabilities"]["fold_thresholds"] = of_folds
        fold_thresholds.copy_rules(thresholds.file, folder.parent)
    return results, recording_counts.count_recordings(sums["by_clip"], clips), sums.get("event", {}).get("histogram")


def _score_training(config, dataset: Dataset, run, state) -> dict[str, Any]:
    """Computes `training` of results.json: the scores of the clips that a run was trained on."""
    clips = dataset.read("development", min_clip_share=config.min_clip_share)
    numbers, _ = split_development(clips, config.validation)
    sums = evaluation.accumulate_counts(run.eval_step, state, run.scalars, clips, numbers, config.batch_size, run.rows)
    return {"training": evaluation.summarise_training(sums)}


def _read_one_threshold(workdir: pathlib.Path, step: int) -> float | None:
    """Reads the shared threshold that --mode=tune chose for this checkpoint; returns None if it chose none."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # rules may be written by hand, and have no such key
        tuned = json.loads((workdir / postprocessing.RULES_FILE).read_text(encoding="utf-8"))
        return float(tuned["one_threshold"]["threshold"]) if tuned["step"] == step else None
    return None


def score_events(config, dataset: Dataset, workdir: pathlib.Path, kinds: list[str]) -> dict[str, Any]:
    """Scores detected events on the evaluation split, in addition to the paper's scores of frames.

    Args:
      config: config of the run.
      dataset: its prepared data.
      workdir: its work directory.
      kinds: some of `segment`, `event`, `psds`.

    Returns:
      The result of `event_scores.score_frames`, and `postprocess`.

    Raises:
      InputError: the run was not tuned although `config.postprocess` asks for it, or a package is missing.
    """
    model = trained_model.load(workdir)
    clips = dataset.read("evaluation")
    recordings = clip_scores.compute_recording_probabilities(model, clips, np.arange(len(clips)))
    scores = {recording: probabilities for recording, (probabilities, _) in recordings.items()}
    hop_s = model.mel.hop_s
    durations_s = {recording: len(probabilities) * hop_s for recording, probabilities in scores.items()}
    rules = _read_rules(config, model, workdir)
    detected = {
        recording: postprocessing.detect_events(
            probabilities, model.events, rules, hop_s=hop_s, duration_s=durations_s[recording]
        )
        for recording, probabilities in scores.items()
    }
    reference = {recording.path: recording.events for recording in dataset.recordings("evaluation") if recording.events_annotated}
    result = event_scores.score_frames(
        scores, reference, model.events,
        hop_s=hop_s, durations_s=durations_s, kinds=kinds, threshold=config.threshold, detected=detected,
    )  # fmt: skip
    return {**result, "postprocess": config.postprocess}


def _read_rules(config, model: TrainedModel, workdir: pathlib.Path) -> dict[str, postprocessing.Rule]:
    """Reads the rules of --mode=tune if the config asks for them; otherwise the threshold of the config alone."""
    if config.postprocess == "tuned":
        return postprocessing.read_rules(workdir / postprocessing.RULES_FILE, model.events, step=model.step)
    return {label: postprocessing.Rule(threshold=config.threshold) for label in model.events}
