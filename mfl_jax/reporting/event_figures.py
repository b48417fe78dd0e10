"""Figures of event probabilities that do not depend on the threshold of the config, and the floors of each run."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mfl_jax.reporting import statistics
from mfl_jax.reporting.tables import Table, format_system

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


def collect_figures(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Returns the figures of one seed that all of its runs have: those of its one run, or the means over its folds."""
    read = [_read_figures(run) for run in runs]
    values = {name: [figures[name] for figures in read] for name in FIGURES}
    present = {name: [value for value in of_runs if value is not None] for name, of_runs in values.items()}
    return {name: float(np.mean(of_runs)) for name, of_runs in present.items() if len(of_runs) == len(runs)}


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
