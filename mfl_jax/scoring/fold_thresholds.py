"""Thresholds from the folds of one experiment, for the runs of another that train on the whole development split."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from mfl_jax.data.folds import FOLDS
from mfl_jax.errors import InputError, warn
from mfl_jax.inference import postprocessing
from mfl_jax.inference.postprocessing import Rule
from mfl_jax.runtime import storage
from mfl_jax.scoring import class_thresholds
from mfl_jax.training import histogram_file, recording_counts

FOLDER = "thresholds"
"""Folder of an experiment with one file of rules per system, `SYSTEM.json`."""


def write_thresholds(home: pathlib.Path) -> list[pathlib.Path]:
    """Chooses the thresholds of each system that detects events, and writes them as rules for `postprocessing.read_rules`.

    Args:
      home: folder of a finished experiment with `config.folds`.

    Returns:
      The files.
    """
    systems: dict[str, list[tuple[dict, pathlib.Path]]] = {}
    for file in sorted(home.glob("members/*/results.json")):
        results = json.loads(file.read_text(encoding="utf-8"))
        if "event" in results:
            systems.setdefault(results["system"], []).append((results, file.parent))
    files = []
    for system, runs in systems.items():
        if (content := _choose_rules(runs)) is not None:
            (home / FOLDER).mkdir(exist_ok=True)
            files.append(home / FOLDER / f"{system}.json")
            storage.atomic_write(files[-1], content)
    return files


def _choose_rules(runs: list[tuple[dict, pathlib.Path]]) -> str | None:
    """Returns the file of a system; None if an earlier version left no histogram."""
    events = runs[0][0]["events"]
    folds = np.zeros((FOLDS, len(events), 2, class_thresholds.BINS), np.int64)
    recordings: dict[int, np.ndarray] = {}
    for results, folder in runs:
        counts, stored = recording_counts.read_counts(folder, results), histogram_file.read_histogram(folder)
        if counts is None or stored is None:
            return None
        folds[results["fold"] - 1] += stored[0]
        recordings[results["fold"]] = (counts["tp"] + counts["fn"] > 0).sum(0)
    chosen = class_thresholds.choose_thresholds(folds, np.sum([*recordings.values()], axis=0))
    return postprocessing.rules_to_json(
        {label: Rule(threshold=float(threshold)) for label, threshold in zip(events, chosen.by_event, strict=True)},
        score="frame", chosen_on=f"the scores of {len(runs)} runs on the folds that they did not train on",
        shared_threshold=chosen.shared, shrinkage=chosen.shrinkage if np.isfinite(chosen.shrinkage) else None,
        cross_fitted=chosen.cross_fitted,
    )  # fmt: skip


def find_file(source: str, system: str) -> pathlib.Path:
    """Returns the thresholds of a system in the experiment `source`.

    Raises:
      InputError: there are none.
    """
    file = pathlib.Path(source) / FOLDER / f"{system}.json"
    if not file.is_file():
        raise InputError(
            f"config.thresholds_from is {source!r}, but there is no {file}; first run an experiment with --config.folds=True and "
            f"the system {system} there"
        )
    return file


def score_thresholds(file: pathlib.Path, histogram: np.ndarray, events: Sequence[str]) -> dict[str, Any]:
    """Scores a run at the thresholds of a file.

    Args:
      file: from `find_file`.
      histogram: of the run's event scores, as in `score_histograms.summarise_scores`.
      events: the labels of its events.

    Returns:
      `chosen_by`, the file; `shared` and `by_event`, as `class_thresholds.score_thresholds` returns them, with `threshold` or
      `class_threshold`.

    Raises:
      InputError: the thresholds are for other events.
    """
    rules, content = postprocessing.read_rules(file, events), json.loads(file.read_text(encoding="utf-8"))
    if missing := [label for label in events if label not in content["rules"]]:
        raise InputError(f"{file}: no threshold for {missing[0]!r}, an event of the data set")
    by_event, shared = np.array([rules[label].threshold for label in events]), float(content["shared_threshold"])
    return {
        "chosen_by": str(file),
        "shared": {"threshold": shared, **class_thresholds.score_thresholds(histogram, np.full(len(events), shared))},
        "by_event": {"class_threshold": by_event.tolist(), **class_thresholds.score_thresholds(histogram, by_event)},
    }


def copy_rules(file: pathlib.Path, folder: pathlib.Path) -> None:
    """Makes the thresholds of a file the rules with which a run predicts, unless --mode=tune chose some for it already."""
    target, content = folder / postprocessing.RULES_FILE, file.read_text(encoding="utf-8")
    if target.is_file() and "step" in json.loads(target.read_text(encoding="utf-8")):  # tuned rules name their checkpoint
        warn(f"{target}: rules of --mode=tune stay; delete them to predict with those of {file}")
        return
    storage.atomic_write(target, content)


def apply_thresholds(folder: pathlib.Path, file: pathlib.Path) -> None:
    """Scores the finished run of an experiment at these thresholds, and makes them its rules.

    `event_probabilities` in results.json gets `fold_thresholds`, as `score_thresholds` returns them.

    Args:
      folder: work directory of the run.
      file: from `find_file`.
    """
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    if (stored := histogram_file.read_histogram(folder)) is None:
        warn(f"{folder}: an earlier version scored this run; it has no scores at the thresholds of {file}")
    else:
        results["event_probabilities"]["fold_thresholds"] = score_thresholds(file, *stored)
        storage.atomic_write(folder / "results.json", json.dumps(results, indent=1) + "\n")
    copy_rules(file, folder)
