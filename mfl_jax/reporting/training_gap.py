"""Scores of the clips that a system was trained on, beside those of the clips that it was not."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mfl_jax.reporting import statistics
from mfl_jax.reporting.paper import SCORES
from mfl_jax.reporting.tables import Table, capitalise, format_mean, format_system

ABOVE_PREVALENCE = ("event", "average_precision_above_prevalence")
TITLES = {score: f"{capitalise(title)} [%]" for score, title in SCORES.items()}
TITLES[ABOVE_PREVALENCE] = "Event macro AP minus prevalence [points]"
"""(task, name) -> title."""


def collect_training(runs: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], float]:
    """Returns the training scores of one seed that all of its runs have: those of its one run, or the means over its folds."""
    values = {(task, name): [run.get("training", {}).get(task, {}).get(name) for run in runs] for task, name in TITLES}
    return {score: float(np.mean(of_runs)) for score, of_runs in values.items() if None not in of_runs}


def summarise_gaps(seeds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Compares training with evaluation, seed by seed.

    Args:
      seeds: the scores of each seed, as `summary.pool_folds` returns them.

    Returns:
      For each of `TITLES` that all seeds have: `task`, `score`, and `training`, `evaluation` and `gap` (training minus
      evaluation), each {"n", "mean", "std", "interval", "values"}.
    """
    entries = []
    for task, name in TITLES:
        trained = [seed["training"].get((task, name)) for seed in seeds]
        scored = [seed["event_figures" if (task, name) == ABOVE_PREVALENCE else task].get(name) for seed in seeds if task in seed]
        if None not in trained and len(scored) == len(seeds) and None not in scored:
            columns = {"training": trained, "evaluation": scored, "gap": np.subtract(trained, scored).tolist()}
            entries.append({"task": task, "score": name} | {key: _summarise(values) for key, values in columns.items()})
    return entries


def _summarise(values: list[float]) -> dict[str, Any]:
    return dataclasses.asdict(statistics.summarise_repeats(values)) | {"values": values}


def build_gap_table(results: Mapping[str, Any]) -> Table:
    """One row per system and score; systems with runs scored by an earlier version have none.

    Args:
      results: of an experiment, as `summary.summarise_experiment` returns them.
    """
    table = [["System", "Score", "Training", "Evaluation", "Gap"]]
    for row in results["rows"]:
        for entry in row["training_gap"]:
            score = entry["task"], entry["score"]
            scale = 100 if score == ABOVE_PREVALENCE else 1
            columns = [_format(entry[key], scale) for key in ("training", "evaluation", "gap")]
            columns[2] = columns[2] if columns[2].startswith("-") else f"+{columns[2]}"
            table.append([format_system(row["system"], row["alpha"], row["sweep"]), TITLES[score], *columns])
    return table


def _format(summary: Mapping[str, Any], scale: float) -> str:
    interval = summary["interval"] and [scale * end for end in summary["interval"]]
    return format_mean({"mean": scale * summary["mean"], "interval": interval})
