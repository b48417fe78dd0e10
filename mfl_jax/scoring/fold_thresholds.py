"""Thresholds from the folds of one experiment, for the runs of another that train on the whole development split."""

import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mfl_jax.data.folds import FOLDS
from mfl_jax.data.prepared_dataset import Dataset
from mfl_jax.errors import InputError, warn
from mfl_jax.inference import postprocessing
from mfl_jax.inference.postprocessing import Rule
from mfl_jax.runtime import storage
from mfl_jax.scoring import class_thresholds
from mfl_jax.training import evaluation, histogram_file, recording_counts
from mfl_jax.training.run_group import Member

FOLDER = "thresholds"
"""Folder of an experiment with one file of rules per system, `SYSTEM.json`."""
SHARED = "shared_threshold"
"""Key of the threshold for all events; rules from elsewhere have none."""


class Thresholds(NamedTuple):
    """Thresholds of a system.

    Attributes:
      file: that holds them.
      shared: for all events.
      by_event: for each event [shape=(E,)].
    """

    file: pathlib.Path
    shared: float
    by_event: np.ndarray


def write_thresholds(home: pathlib.Path, config: Mapping[str, Any]) -> list[pathlib.Path]:
    """Chooses the thresholds of each system that detects events, and writes them as rules for `postprocessing.read_rules`.

    Only a cross-validation has such scores. With several values of alpha or of a focal parameter, a system has no thresholds of
    its own. It gets none, with a warning, if an earlier version scored one of its runs.

    Args:
      home: folder of a finished experiment.
      config: of the experiment.

    Returns:
      The files.
    """
    if not config["folds"] or config["alphas"] or any(config["sweep"].values()):
        return []
    runs: dict[str, list[tuple[dict, pathlib.Path]]] = {}
    for file in sorted(home.glob("members/*/results.json")):
        results = json.loads(file.read_text(encoding="utf-8"))
        if "event" in results:
            runs.setdefault(results["system"], []).append((results, file.parent))
    files = []
    for system, of_system in runs.items():
        if (content := _choose_rules(of_system)) is not None:
            (home / FOLDER).mkdir(exist_ok=True)
            files.append(home / FOLDER / f"{system}.json")
            storage.atomic_write(files[-1], content)
    return files


def _choose_rules(runs: Sequence[tuple[Mapping[str, Any], pathlib.Path]]) -> str | None:
    """Returns the file of a system, from the results and the folder of each of its runs; None if one has no histogram."""
    first, _ = runs[0]
    folds = np.zeros((FOLDS, len(first["events"]), 2, class_thresholds.BINS), np.int64)
    recordings = np.zeros(folds.shape[:2], np.int64)
    for results, folder in runs:
        counts = recording_counts.read_counts(folder, results)
        histogram = histogram_file.read_matching_histogram(folder, results)
        if counts is None or histogram is None:
            warn(f"{folder}: an earlier version scored this run, so {first['system']} gets no thresholds; train the folds again")
            return None
        folds[results["fold"] - 1] += histogram
        recordings[results["fold"] - 1] = (counts["tp"] + counts["fn"] > 0).sum(0)  # the same for all seeds
    chosen = class_thresholds.choose_thresholds(folds, recordings)
    return postprocessing.rules_to_json(
        {label: Rule(threshold=float(threshold)) for label, threshold in zip(first["events"], chosen.by_event, strict=True)},
        system=first["system"], dataset=first["dataset"], fingerprint=first["fingerprint"], score="frame",
        chosen_on=f"the scores of {len(runs)} runs on the folds that they did not train on",
        shared_threshold=chosen.shared, shrinkage=chosen.shrinkage if np.isfinite(chosen.shrinkage) else None,
        cross_fitted=chosen.cross_fitted,
    )  # fmt: skip


def read_thresholds(source: str, system: str, events: Sequence[str], fingerprint: str) -> Thresholds:
    """Reads the thresholds of a system from the experiment that chose them.

    Args:
      source: `config.thresholds_from`.
      system: its name.
      events: the labels of the data set.
      fingerprint: of the data set.

    Raises:
      InputError: the file is missing, or its events or data set differ.
    """
    folder = storage.expand_path(source) / FOLDER
    file = folder / f"{system}.json"
    if not file.is_file():
        known = ", ".join(sorted(other.stem for other in folder.glob("*.json"))) or "none"
        raise InputError(
            f"config.thresholds_from is {source!r}, but {folder} has no thresholds of {system} (those there: {known}); run an "
            "experiment with config.folds and this system first, or give this run the name of one of those: --config.name"
        )
    rules, content = postprocessing.read_rules(file, events), json.loads(file.read_text(encoding="utf-8"))
    if SHARED not in content or (missing := [label for label in events if label not in content["rules"]]):
        what = SHARED if SHARED not in content else repr(missing[0])
        raise InputError(f"{file}: no threshold for {what}; run the experiment with config.folds again")
    if content.get("fingerprint") != fingerprint:
        raise InputError(f"{file}: chosen on other data than this data set; run the experiment with config.folds on it")
    shared = content[SHARED]
    if not (isinstance(shared, float) and 0 < shared < 1):
        raise InputError(
            f"{file}: {SHARED} is {shared!r}; must be above 0 and below 1; run the experiment with config.folds again"
        )
    return Thresholds(file, shared, np.array([rules[label].threshold for label in events]))


def read_all(source: str, members: Iterable[Member], dataset: Dataset) -> dict[str, Thresholds]:
    """Reads the thresholds of the systems of an experiment that detect events, by name; none if `source` is empty."""
    systems = dict.fromkeys(member.system for member in members if source and "event" in member.config.tasks)
    return {system: read_thresholds(source, system, dataset.events, dataset.fingerprint) for system in systems}


def apply_all(thresholds: Mapping[str, Thresholds], members: Iterable[Member], home: pathlib.Path) -> None:
    """Applies the thresholds of `read_all` to the finished runs of an experiment in the folder `home`."""
    for member in members:
        if member.system in thresholds:
            apply_thresholds(member.folder(home), thresholds[member.system])


def score_thresholds(thresholds: Thresholds, histogram: np.ndarray) -> dict[str, Any]:
    """Scores the event scores of a run at thresholds.

    Args:
      thresholds: from `read_thresholds`.
      histogram: of the run, as in `score_histograms.summarise_scores` [shape=(E, 2, BINS)].

    Returns:
      `chosen_by`, the file; `shared` and `by_event`, as `class_thresholds.score_thresholds` returns them, with `threshold` or
      `class_threshold`.
    """
    file, shared, by_event = thresholds
    everywhere = class_thresholds.score_thresholds(histogram, np.full(len(by_event), shared))
    each = class_thresholds.score_thresholds(histogram, by_event)
    return {
        "chosen_by": str(file),
        "shared": {"threshold": shared, **everywhere},
        "by_event": {"class_threshold": by_event.tolist(), **each},
    }


def copy_rules(file: pathlib.Path, folder: pathlib.Path) -> None:
    """Makes the thresholds of a file the rules with which a run predicts. Rules that come from elsewhere stay, with a warning."""
    target = folder / postprocessing.RULES_FILE
    if target.is_file() and f'"{SHARED}"' not in target.read_text(encoding="utf-8", errors="replace"):
        warn(f"{target}: kept; delete it to predict with the thresholds of {file}")
        return
    storage.atomic_write(target, file.read_text(encoding="utf-8"))


def apply_thresholds(folder: pathlib.Path, thresholds: Thresholds) -> None:
    """Scores the finished run of an experiment at thresholds, and makes them its rules.

    `event_probabilities` in results.json gets `fold_thresholds`, as `score_thresholds` returns them.

    Args:
      folder: work directory of the run.
      thresholds: from `read_thresholds`.
    """
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    if (histogram := histogram_file.read_matching_histogram(folder, results)) is None:
        warn(f"{folder}: an earlier version scored this run; evaluate it again for the scores at the thresholds of the folds")
    else:
        results["event_probabilities"]["fold_thresholds"] = score_thresholds(thresholds, histogram)
        evaluation.write_results(folder / "results.json", results)
    copy_rules(thresholds.file, folder)
