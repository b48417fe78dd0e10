"""The figures that an experiment has data for, with their captions."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from mfl_jax.reporting import figures, summary
from mfl_jax.training import epoch_log


class CaptionedFigure(NamedTuple):
    """A figure that is drawn when it is needed, since colours depend on the theme."""

    caption: str
    draw: Callable[[], Figure]


def read_records(home: pathlib.Path) -> dict[tuple[str, float], list[list[dict]]]:
    """Reads the epoch records of every finished run of an experiment, by system and alpha."""
    records: dict[tuple[str, float], list[list[dict]]] = {}
    for run in summary.read_finished_runs(home):
        file = home / "members" / run["member"] / "metrics.jsonl"
        records.setdefault((run["system"], run["config"]["alpha"]), []).append(epoch_log.read(file))
    return records


def choose_figures(
    results: Mapping[str, Any], records: Mapping[tuple[str, float], list[list[dict]]]
) -> dict[str, CaptionedFigure]:
    """Chooses the figures of an experiment.

    Args:
      results: of the experiment, as `summary.summarise_experiment` returns them.
      records: as `read_records` returns them.

    Returns:
      Name of the figure's files -> the figure.
    """
    rows = results["rows"]
    with_scenes, with_events = ([row for row in rows if task in row] for task in ("scene", "event"))
    with_alpha = [row for row in rows if row["alpha"] is not None]
    by_name = _name_records(rows, records)
    focal = {name: runs for name, runs in by_name.items() if _is_focal(runs)}
    chosen = {}
    if with_alpha:
        chosen["figure2"] = CaptionedFigure(
            "Scores against the weight alpha of the scene loss (Fig. 2 of the paper). Bands: 95 % confidence interval.",
            lambda: figures.draw_scores_against_alpha(with_alpha),
        )
    if focal:
        chosen["focal_weights"] = CaptionedFigure(
            "Mean focal factor, by which the plain loss is multiplied: how the balance between scenes, active frames and "
            "inactive frames moves during training. Bands: lowest to highest run.",
            lambda: figures.draw_focal_weights(focal),
        )
    chosen["learning_curves"] = CaptionedFigure(
        "Loss and micro F on the training clips. Bands: lowest to highest run.",
        lambda: figures.draw_learning_curves(by_name),
    )
    if with_events:
        chosen["event_scores"] = CaptionedFigure(
            "F of each event, the most active events on top; the rare ones at the bottom decide the macro F.",
            lambda: figures.draw_event_scores(with_events, results["events"], _compute_active_shares(results)),
        )
    if with_scenes:
        chosen["scene_confusion"] = CaptionedFigure(
            "Scene confusion: true scene against answer, percent of the clips of the true scene, summed over seeds.",
            lambda: figures.draw_confusions(with_scenes, results["scenes"]),
        )
    return chosen


def _name_records(rows: list[summary.Row], records: Mapping[tuple[str, float], list[list[dict]]]) -> dict[str, list[list[dict]]]:
    """Records by the name of their curves, in the order of the rows."""
    varies = any(row["alpha"] is not None for row in rows)
    return {
        (f"{system}, alpha {alpha:g}" if varies else system): runs
        for system in dict.fromkeys(row["system"] for row in rows)
        for (name, alpha), runs in sorted(records.items())
        if name == system
    }


def _is_focal(runs: list[list[dict]]) -> bool:
    """Whether any focal factor of a system differs from 1 at the end of training."""
    last = runs[0][-1]["train"]
    return any(task in last and last[task][key] not in (None, 1.0) for task, key in figures.FOCAL_WEIGHTS)


def _compute_active_shares(results: Mapping[str, Any]) -> list[float]:
    """The share of the scored frames in which each event is active."""
    scored = results["data"]["development" if results["split"].startswith("development") else "evaluation"]
    seconds = sum(scored["seconds"])
    return [sum(scene[m] for scene in scored["active_seconds"]) / seconds for m in range(len(results["events"]))]
