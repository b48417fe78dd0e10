"""Figures of event probabilities that do not depend on the threshold of the config, and the floors of each run."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mfl_jax.reporting import paper, statistics
from mfl_jax.reporting.tables import Table, format_p, format_system
from mfl_jax.training import histogram_file, score_histograms

FIGURES = {
    "average_precision_above_prevalence": ("Macro AP minus prevalence", ".4f"),
    "shared_threshold_macro_f": ("Macro F at one threshold from the folds [%]", ".2f"),
    "class_thresholds_macro_f": ("Macro F at a threshold per event from the folds [%]", ".2f"),
    "class_thresholds_micro_f": ("Micro F there [%]", ".2f"),
    "oracle_macro_f": ("Macro F with oracle thresholds (upper bound) [%]", ".2f"),
    "floor_predicted_scene_macro_f": ("Floor: all events of the predicted scene, macro F [%]", ".2f"),
    "floor_true_scene_macro_f": ("Floor: all events of the true scene, macro F [%]", ".2f"),
    "brier": ("Brier score", ".4f"),
}
"""Name -> title and format."""
COMPARED = ("average_precision_above_prevalence", "shared_threshold_macro_f", "class_thresholds_macro_f", "brier")
"""The figures in which systems are compared with the proposed one."""


def _read_figures(run: Mapping[str, Any]) -> dict[str, float | None]:
    """Returns those of `FIGURES` that results.json has; runs scored by an earlier version have none."""
    probabilities, floors = run.get("event_probabilities", {}), run.get("floors", {}).get("event", {})
    of_folds = probabilities.get("fold_thresholds", {})
    return {
        "shared_threshold_macro_f": of_folds.get("shared", {}).get("macro_f"),
        "class_thresholds_macro_f": of_folds.get("by_event", {}).get("macro_f"),
        "class_thresholds_micro_f": of_folds.get("by_event", {}).get("micro_f"),
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
    read = (histogram_file.read_matching_histogram(run["folder"], run) for run in runs)
    histograms = [histogram for histogram in read if histogram is not None]
    return score_histograms.summarise_scores(np.sum(histograms, axis=0)) if len(histograms) == len(runs) else None


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
    rows = [row for row in results["rows"] if "event" in row]
    shown = {name: about for name, about in FIGURES.items() if any(name in row["event_figures"] for row in rows)}
    table = [["System", "Macro F [%]", *(title for title, _ in shown.values())]]
    for row in results["rows"]:
        if "event" in row:
            cells = [
                format(row["event_figures"][name]["mean"], form) if name in row["event_figures"] else ""
                for name, (_, form) in shown.items()
            ]
            system = format_system(row["system"], row["alpha"], row["sweep"])
            table.append([system, f"{row['event']['macro_f']['mean']:.2f}", *cells])
    return table


def compare_figures(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Compares the proposed system with each other one that detects events, by their common seeds.

    A system without alpha is compared with the proposed one at each alpha. Swept values are not compared.

    Args:
      rows: of an experiment, as `summary.build_row` returns them.

    Returns:
      For each figure of `COMPARED` that both have: `first`, `second`, `alpha`, `figure`, and the fields of
      `statistics.PairedComparison`. `p_holm` is corrected for the number of systems compared by this figure at this alpha.
    """
    entries: list[dict[str, Any]] = []
    for figure in COMPARED:
        with_figure = [row for row in rows if figure in row["event_figures"] and not row["sweep"]]
        for proposed in (row for row in with_figure if row["system"] == paper.PROPOSED):
            compared = [
                _compare(proposed, row, figure)
                for row in with_figure
                if row["system"] != paper.PROPOSED
                and row["alpha"] in (None, proposed["alpha"])
                and set(row["seeds"]) & set(proposed["seeds"])
            ]
            corrected = statistics.correct_holm([entry["p_t"] for entry in compared])
            entries += [{**entry, "p_holm": p_holm} for entry, p_holm in zip(compared, corrected, strict=True)]
    return entries


def _compare(first: Mapping[str, Any], second: Mapping[str, Any], figure: str) -> dict[str, Any]:
    seeds = sorted(set(first["seeds"]) & set(second["seeds"]))
    values = [[row["event_figures"][figure]["values"][row["seeds"].index(seed)] for seed in seeds] for row in (first, second)]
    about = {"first": first["system"], "second": second["system"], "alpha": first["alpha"], "figure": figure}
    return about | dataclasses.asdict(statistics.compare_pairs(*values))


def build_figure_comparison_table(results: Mapping[str, Any]) -> Table:
    """Paired differences of `COMPARED`, first minus second system."""
    table = [["First", "Second", "Figure", "Pairs", "Difference", "95 % interval", "p (t)", "p (Holm)"]]
    for entry in results["event_figure_comparisons"]:
        title, form = FIGURES[entry["figure"]]
        difference = entry["difference"]
        interval = (
            "" if difference["interval"] is None else " to ".join(format(end, f"+{form}") for end in difference["interval"])
        )
        names = format_system(entry["first"], entry["alpha"]), format_system(entry["second"], None)
        numbers = str(difference["n"]), format(difference["mean"], f"+{form}"), interval
        table.append([*names, title, *numbers, format_p(entry["p_t"]), format_p(entry["p_holm"])])
    return table
