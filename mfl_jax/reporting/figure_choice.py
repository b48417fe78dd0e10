"""The figures that an experiment has data for, with their captions."""

import functools
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from mfl_jax.reporting import figures, reliability, summary
from mfl_jax.runtime import workdir_config
from mfl_jax.training import epoch_log, experiment_variants


class CaptionedFigure(NamedTuple):
    """A figure that is drawn when it is needed, with `columns` of panels."""

    caption: str
    draw: Callable[..., Figure]


Records = Mapping[summary.RowKey, list[list[dict]]]
"""Key of a row -> the epoch records (lines of metrics.jsonl) of each of its runs."""


def read_records(home: pathlib.Path) -> Records:
    """Reads the epoch records of every finished run of an experiment."""
    config = workdir_config.read_config(home / "config.json")
    records: dict[summary.RowKey, list[list[dict]]] = {}
    for run in summary.read_finished_runs(home):
        variant = experiment_variants.identify_variant(config, run["system"], run["config"])
        file = home / "members" / run["member"] / "metrics.jsonl"
        records.setdefault(summary.build_key(run["system"], *variant), []).append(epoch_log.read(file))
    return records


def choose_figures(results: Mapping[str, Any], records: Records) -> dict[str, CaptionedFigure]:
    """Chooses the figures of an experiment.

    Args:
      results: of the experiment, as `summary.summarise_experiment` returns them.
      records: as `read_records` returns them.

    Returns:
      Name of the figure's files -> the figure.
    """
    rows = results["rows"]
    with_scenes, with_events = ([row for row in rows if task in row] for task in ("scene", "event"))
    by_name = _name_records(rows, records)
    curves, meaning = _choose_curves(by_name)
    weighted = {name: runs for name, runs in by_name.items() if _is_weighted(runs, curves)}
    chosen = _choose_parameter_figures(results)
    if weighted:
        chosen["focal_weights"] = CaptionedFigure(
            f"{meaning} It shows how the balance between scenes, active frames and inactive frames moves during training. Bands: "
            "lowest to highest run.",
            functools.partial(figures.draw_focal_weights, weighted, curves),
        )
    chosen["learning_curves"] = CaptionedFigure(
        "Loss and micro F on the training clips. Bands: lowest to highest run.",
        functools.partial(figures.draw_learning_curves, by_name),
    )
    chosen |= _choose_event_figures(results, with_events)
    if with_scenes:
        chosen["scene_confusion"] = CaptionedFigure(
            "Scene confusion: true scene against answer, percent of the clips of the true scene, summed over seeds.",
            functools.partial(figures.draw_confusions, with_scenes, results["scenes"]),
        )
    return chosen


def _choose_event_figures(results: Mapping[str, Any], rows: list[summary.Row]) -> dict[str, CaptionedFigure]:
    """Chooses the figures of the rows that detect events."""
    chosen = {}
    if rows:
        recordings = results["data"]["development"].get("event_recordings")  # earlier versions did not count them
        meaning = "" if recordings is None else " In brackets: the number of development recordings that have the event."
        chosen["event_scores"] = CaptionedFigure(
            f"F of each event, the most active events on top; the rare ones at the bottom decide the macro F.{meaning}",
            functools.partial(figures.draw_event_scores, rows, results["events"], _compute_active_shares(results), recordings),
        )
    if drawn := [row for row in rows if reliability.select_points(row["reliability"])]:
        chosen["reliability"] = CaptionedFigure(
            "Reliability: the share of active frames against the mean predicted probability, in ten equal intervals of the "
            "probability, all events and seeds together. Below the diagonal, probabilities are too high; above it, too low. "
            f"Intervals with fewer than {reliability.FEWEST_CELLS:,} pairs of a frame and an event are left out.",
            functools.partial(figures.draw_reliability, drawn),
        )
    return chosen


def _choose_parameter_figures(results: Mapping[str, Any]) -> dict[str, CaptionedFigure]:
    """Chooses a figure of the scores against each parameter that the experiment varies."""
    rows = results["rows"]
    chosen = {}
    bands = "Lines: systems that do not vary it. Bands: 95 % confidence interval."
    if with_alpha := [(row["alpha"], row) for row in rows if row["alpha"] is not None]:
        lines = [row for row in rows if row["alpha"] is None]
        chosen["figure2"] = CaptionedFigure(
            f"Scores against the {figures.PARAMETERS['alpha']} (Fig. 2 of the paper). {bands}",
            functools.partial(figures.draw_scores_against, with_alpha, lines, label=figures.PARAMETERS["alpha"]),
        )
    for field, own_values in results["sweeps"].items():
        unswept = [row for row in rows if not row["sweep"]]
        points = [(own_values[row["system"]], row) for row in unswept if row["system"] in own_values]
        points += [(row["sweep"][field], row) for row in rows if row["sweep"] and field in row["sweep"]]
        lines = [row for row in unswept if row["system"] not in own_values]
        chosen[f"sweep_{field}"] = CaptionedFigure(
            f"Scores against the {figures.PARAMETERS[field]}. {bands}",
            functools.partial(figures.draw_scores_against, points, lines, label=figures.PARAMETERS[field]),
        )
    return chosen


def _name_records(rows: list[summary.Row], records: Records) -> dict[str, list[list[dict]]]:
    """Records by the name of their curves, in the order of the rows."""
    keys = {key: row for row in rows if (key := summary.build_key(row["system"], row["alpha"], row["sweep"])) in records}
    return {figures.name_curve(row): records[key] for key, row in keys.items()}


def _choose_curves(by_name: figures.Records) -> tuple[figures.Curves, str]:
    """Returns loss multipliers if every epoch has them, else mean focal factors, which all versions log; and what they mean."""
    trained = [record["train"] for runs in by_name.values() for run in runs for record in run]
    if all(key in train[task] for train in trained for task, key in figures.LOSS_MULTIPLIERS if task in train):
        return figures.LOSS_MULTIPLIERS, "Loss multiplier: the loss divided by the plain loss of the same clips or frames."
    return figures.FOCAL_WEIGHTS, (
        "Mean focal factor, each clip or frame counted equally. Some epochs were logged by a version without the loss "
        "multiplier, which weights each by its plain loss."
    )


def _is_weighted(runs: list[list[dict]], curves: figures.Curves) -> bool:
    """Whether anything but 1 multiplies a loss of a system at the end of training."""
    last = runs[0][-1]["train"]
    values = [last[task][key] for task, key in curves if task in last]
    return any(value is not None and not math.isclose(value, 1.0, rel_tol=1e-3) for value in values)


def _compute_active_shares(results: Mapping[str, Any]) -> list[float]:
    """The share of the scored frames in which each event is active."""
    scored = results["data"]["development" if results["split"].startswith("development") else "evaluation"]
    seconds = sum(scored["seconds"])
    return [sum(scene[m] for scene in scored["active_seconds"]) / seconds for m in range(len(results["events"]))]
