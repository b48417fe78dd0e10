"""Figures of event probabilities that do not depend on the threshold of the config, and the floors of each run."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mfl_jax.reporting import statistics
from mfl_jax.reporting.tables import Table, format_system
from mfl_jax.training import histogram_file, score_histograms

FIGURES = {
    "average_precision_above_prevalence": ("Macro AP minus prevalence", ".4f"),
    "oracle_macro_f": ("Macro F with oracle thresholds (upper bound) [%]", ".2f"),
    "floor_predicted_scene_macro_f": ("Floor: all events of the predicted scene, macro F [%]", ".2f"),
    "floor_true_scene_macro_f": ("Floor: all events of the true scene, macro F [%]", ".2f"),
    "brier": ("Brier score", ".4f"),
}
"""Name -> title and format."""


def _read_figures(run: Mapping[str, Any]) -> dict[str, float | None]:
    """Returns those of `FIGURES` that results.json has; runs scored by an earlier version have none."""
    probabilities, floors = run.get("event_probabilities", {}), run.get("floors", {}).get("event", {})
    return {
        "average_precision_above_prevalence": probabilities.get("average_precision", {}).get("mean_above_prevalence"),
        "oracle_macro_f": probabilities.get("oracle_thresholds", {}).get("macro_f"),
        "floor_predicted_scene_macro_f": floors.get("events_of_predicted_scene", {}).get("macro_f"),
        "floor_true_scene_macro_f": floors.get("events_of_true_scene", {}).get("macro_f"),
        "brier": probabilities.get("brier"),
    }


def pool_probabilities(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Returns `event_probabilities` of one seed: of its one run, or of the pooled scores of its folds.

    Args:
      runs: contents of results.json, each with its work directory under `folder`.

    Returns:
      What `score_histograms.summarise_scores` returns; None if a run has no histogram of the scores in its results.json.

    Raises:
      InputError: the file of a histogram is damaged.
    """
    if len(runs) == 1:
        return runs[0].get("event_probabilities")
    histograms = [histogram for run in runs if (histogram := _read_histogram(run)) is not None]
    return score_histograms.summarise_scores(np.sum(histograms, axis=0)) if len(histograms) == len(runs) else None


def _read_histogram(run: Mapping[str, Any]) -> np.ndarray | None:
    """Reads the histogram of a run; returns None if it has none, or one that comes from another evaluation."""
    if "event_probabilities" not in run or (read := histogram_file.read_histogram(run["folder"])) is None:
        return None
    histogram, events = read

    def count_cells(probabilities):
        return [interval["cells"] for interval in probabilities["reliability"]]

    same = count_cells(score_histograms.summarise_scores(histogram)) == count_cells(run["event_probabilities"])
    return histogram if same and list(events) == run["events"] else None


def collect_figures(runs: Sequence[Mapping[str, Any]], probabilities: Mapping[str, Any] | None) -> dict[str, float]:
    """Returns the figures of one seed that all of its runs have: those of its one run, or the means over its folds.

    Args:
      runs: contents of results.json.
      probabilities: from `pool_probabilities`; its figures replace the means.
    """
    read = [_read_figures(run) for run in runs]
    values = {name: [figures[name] for figures in read] for name in FIGURES}
    present = {name: [value for value in of_runs if value is not None] for name, of_runs in values.items()}
    means = {name: float(np.mean(of_runs)) for name, of_runs in present.items() if len(of_runs) == len(runs)}
    pooled = _read_figures({"event_probabilities": probabilities or {}})
    return means | {name: value for name, value in pooled.items() if value is not None}


def note_pooling(rows: Sequence[Mapping[str, Any]], *, folds: bool) -> str:
    """States how the figures of a seed follow from its folds; "" without a cross-validation.

    Args:
      rows: of results.json.
      folds: whether the experiment is a cross-validation.
    """
    rows = [row for row in rows if "event" in row]
    means = [row for row in rows if not row["event_scores_pooled"]]
    if not folds or not rows:
        return ""
    sentences = []
    if len(means) < len(rows):
        sentences.append(
            "AP, oracle thresholds and Brier score of a seed are those of the pooled scores of its folds, each "
            "recording scored by the run that was not trained on it. The floors are means over folds."
        )
    if means:
        systems = ", ".join(format_system(row["system"], row["alpha"], row["sweep"]) for row in means)
        sentences.append(
            f"The figures of {systems} are means over folds. For pooled scores each run needs a {histogram_file.FILE} that "
            "agrees with its results.json; runs scored by earlier versions have none."
        )
    return " ".join(sentences)


def summarise_figures(seeds: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Summarises the figures that all seeds have.

    Args:
      seeds: of each seed, as `collect_figures` returns them.

    Returns:
      Name -> {"n", "mean", "std", "interval", "values"}.
    """
    values = {name: [seed[name] for seed in seeds if name in seed] for name in FIGURES}
    return {
        name: dataclasses.asdict(statistics.summarise_repeats(of_seeds)) | {"values": of_seeds}
        for name, of_seeds in values.items()
        if len(of_seeds) == len(seeds)
    }


def build_figure_table(results: Mapping[str, Any]) -> Table:
    """One row per system that detects events, with macro F at the threshold of the config for comparison.

    Args:
      results: of an experiment, as `summary.summarise_experiment` returns them.
    """
    table = [["System", "Macro F [%]", *(title for title, _ in FIGURES.values())]]
    for row in results["rows"]:
        if "event" in row:
            cells = [
                format(row["event_figures"][name]["mean"], form) if name in row["event_figures"] else ""
                for name, (_, form) in FIGURES.items()
            ]
            system = format_system(row["system"], row["alpha"], row["sweep"])
            table.append([system, f"{row['event']['macro_f']['mean']:.2f}", *cells])
    return table
