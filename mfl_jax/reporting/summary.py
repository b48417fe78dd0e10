"""From the runs of an experiment to its results.json: means over seeds, paired comparisons, and the paper's claim."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mfl_jax import metrics
from mfl_jax.data.folds import FOLDS
from mfl_jax.errors import InputError
from mfl_jax.reporting import (
    alpha_dependence,
    conditions,
    event_figures,
    paper,
    recording_bootstrap,
    reliability,
    statistics,
    training_gap,
    verdicts,
)
from mfl_jax.reporting.paper import CONVENTIONAL, PROPOSED, SCORES
from mfl_jax.runtime import workdir_config
from mfl_jax.training import experiment_variants, recording_counts

Row = dict[str, Any]
"""A row of the tables, as `build_row` returns it."""
RowKey = tuple[str, float | None, tuple[tuple[str, float], ...]]
"""Identifies a row: its system, its alpha, and the swept field with its value."""


def build_key(system: str, alpha: float | None, sweep: Mapping[str, float] | None) -> RowKey:
    """Builds the key of a row, from its own values or those that `experiment_variants.identify_variant` returns."""
    return system, alpha, tuple((sweep or {}).items())


def read_finished_runs(home: pathlib.Path) -> list[dict[str, Any]]:
    """Reads the results.json of every finished run of an experiment.

    Returns:
      Each with its folder under `folder`, its config under `config`, and its counts by recording, or None, under `recordings`.

    Raises:
      InputError: no run is finished.
    """
    runs = []
    for file in sorted(home.glob("members/*/results.json")):
        results = json.loads(file.read_text(encoding="utf-8"))
        counts = recording_counts.read_counts(file.parent, results)
        config = workdir_config.read_config(file.parent / "config.json")
        runs.append({**results, "member": file.parent.name, "folder": file.parent, "config": config, "recordings": counts})
    if not runs:
        raise InputError(f"{home}: no finished run; run python -m mfl_jax.experiment first")
    return runs


def pool_folds(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the scores of one seed: of its one run, or in cross-validation of the summed counts of its folds.

    Beside them are `recordings`, its counts by recording or None, `event_figures`, `event_scores_pooled`, whether those are of
    pooled scores, `reliability`, what `reliability.pool_intervals` returns, and `training`, its scores on the training clips.
    """
    probabilities = event_figures.pool_probabilities(runs)
    beside = {
        "recordings": recording_counts.join_recordings([run["recordings"] for run in runs]),
        "event_figures": event_figures.collect_figures(runs, probabilities),
        "event_scores_pooled": probabilities is not None,
        "reliability": reliability.pool_intervals([run.get("event_probabilities", {}).get("reliability") for run in runs]),
        "training": training_gap.collect_training(runs),
    }
    if len(runs) == 1:
        return {task: runs[0][task] for task in ("scene", "event") if task in runs[0]} | beside
    ratios = {"scene": metrics.scene_ratios, "event": metrics.frame_ratios}
    counts = [jax.tree.map(np.asarray, run["counts"], is_leaf=lambda leaf: isinstance(leaf, list)) for run in runs]
    total = jax.tree.map(lambda *parts: sum(parts), *counts)
    return {task: ratios[task](total[task]) for task in total} | beside


def build_row(
    system: str, alpha: float | None, seeds: Mapping[int, Mapping[str, Any]], sweep: Mapping[str, float] | None = None
) -> Row:
    """Builds a row of the tables.

    Args:
      system: its name.
      alpha: weight of the scene loss, if the experiment varies it.
      seeds: seed -> its scores, as `pool_folds` returns them.
      sweep: the focal parameter that the experiment sweeps and its value, if that is not the system's own.

    Returns:
      {"system", "alpha", "sweep", "seeds", "scene": {"micro_f": {"n", "mean", "std", "interval", "values",
      "recordings_interval"}, "macro_f", "class_f", "confusion"}, "event": {"micro_f", "macro_f", "error_rate", "class_f"},
      "event_figures", "event_scores_pooled", "reliability", "training_gap", "redrawn"}; `class_f` holds the mean of each class,
      `confusion` the sum over seeds, `event_figures` what `event_figures.summarise_figures` returns, `event_scores_pooled`
      whether all seeds have pooled ones, `reliability` what `reliability.pool_intervals` returns, `training_gap` what
      `training_gap.summarise_gaps` returns, `redrawn` what `recording_bootstrap.redraw_seeds` returns.
    """
    row: Row = {"system": system, "alpha": alpha, "sweep": sweep, "seeds": sorted(seeds)}
    ordered = [seeds[seed] for seed in sorted(seeds)]
    row["redrawn"] = recording_bootstrap.redraw_seeds([scores["recordings"] for scores in ordered])
    row["event_figures"] = event_figures.summarise_figures([scores["event_figures"] for scores in ordered])
    row["event_scores_pooled"] = all(scores["event_scores_pooled"] for scores in ordered)
    row["reliability"] = reliability.pool_intervals([scores["reliability"] for scores in ordered])
    row["training_gap"] = training_gap.summarise_gaps(ordered)
    for task in ("scene", "event"):
        if task not in ordered[0]:
            continue
        row[task] = {"class_f": np.mean([scores[task]["class_f"] for scores in ordered], axis=0).tolist()}
        for name in ("micro_f", "macro_f", "error_rate"):
            values = [scores[task].get(name) for scores in ordered]
            if None not in values:
                interval = recording_bootstrap.mean_interval(row["redrawn"], (task, name))
                repeats = dataclasses.asdict(statistics.summarise_repeats(values))
                row[task][name] = {**repeats, "values": values, "recordings_interval": interval}
        if task == "scene":
            row[task]["confusion"] = np.sum([scores[task]["confusion"] for scores in ordered], axis=0).tolist()
    return row


def compare_rows(first: Row, second: Row) -> list[dict[str, Any]]:
    """Compares two rows by their common seeds: one entry per common score, with a verdict in words.

    `p_t` is that of one comparison alone, `p_holm` is corrected for the number of scores.
    """
    seeds = [seed for seed in first["seeds"] if seed in second["seeds"]]
    entries: list[dict[str, Any]] = []
    for (task, name), title in SCORES.items():
        if task not in first or task not in second or not seeds:
            continue
        at_first, at_second = ([row["seeds"].index(seed) for seed in seeds] for row in (first, second))
        values = [[row[task][name]["values"][i] for i in at] for row, at in ((first, at_first), (second, at_second))]
        comparison = statistics.compare_pairs(*values)
        verdict = statistics.state_verdict(comparison, first=_name_row(first), second=second["system"], score=title)
        entries.append(
            {
                "first": first["system"], "second": second["system"], "alpha": first["alpha"], "sweep": first["sweep"],
                "task": task, "score": name, **dataclasses.asdict(comparison), "verdict": verdict,
                "recordings_interval": recording_bootstrap.difference_interval(
                    (first["redrawn"], second["redrawn"]), (task, name), (at_first, at_second)
                ),
            }
        )  # fmt: skip
    corrected = statistics.correct_holm([entry["p_t"] for entry in entries])
    return [{**entry, "p_holm": p_holm} for entry, p_holm in zip(entries, corrected, strict=True)]


def _name_row(row: Row) -> str:
    return " with ".join([row["system"], *(f"{field} {value:g}" for field, value in (row["sweep"] or {}).items())])


def judge_claim(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """Judges the paper's claim, that the proposed system beats the conventional one in all four scores, in sentences."""
    entries = [entry for entry in comparisons if (entry["first"], entry["second"]) == (PROPOSED, CONVENTIONAL)]
    if not entries:
        return "The paper's claim was not tested: it needs the systems proposed and conventional_mtl."
    judgement = verdicts.judge_scores(
        entries,
        positive="In this experiment it is better in {}.",
        negative="In this experiment it is worse in {}, which contradicts the claim.",
    )
    return f"The paper claims that the proposed system beats the conventional one in all 4 scores. {judgement}"


def summarise_experiment(home: pathlib.Path) -> dict[str, Any]:
    """Builds the results.json of an experiment from its finished runs.

    Raises:
      InputError: no run is finished, or no seed has all of its folds.
    """
    runs = read_finished_runs(home)
    config = workdir_config.read_config(home / "config.json")
    data = json.loads((home / "data.json").read_text(encoding="utf-8"))
    rows = _build_rows(runs, config)
    if not rows:
        raise InputError(f"{home}: no seed has all of its folds yet")
    comparisons = _compare_with_others(rows, list(config["systems"])) + _compare_sweeps(rows)
    alpha = alpha_dependence.summarise_alpha_dependence(rows, config["alphas"])
    for row in rows:
        del row["redrawn"]
    return {
        "experiment": config["name"],
        "dataset": config["dataset"],
        "split": "development, four folds pooled" if config["folds"] else "evaluation",
        "conditions": conditions.describe_conditions(home, config, runs),
        "runs": {"complete": len(runs), "planned": _count_planned_runs(config)},
        "rows": rows,
        "recordings_note": recording_bootstrap.note_missing(rows, folds=bool(config["folds"])),
        "event_figures_note": event_figures.note_pooling(rows, folds=bool(config["folds"])),
        "event_figure_comparisons": event_figures.compare_figures(rows),
        "comparisons": comparisons,
        "claims": _judge_claims(comparisons, by_alpha=bool(config["alphas"])) | alpha_dependence.judge_alpha_claims(alpha),
        "alpha_dependence": alpha,
        "sweeps": experiment_variants.list_swept_systems(config),
        "floors": data["floors"],
        "data": data["splits"],
        "paper": compare_with_paper(rows),
        "scenes": runs[0]["scenes"],
        "events": runs[0]["events"],
        "device": sorted({run["device"] for run in runs}),
        "versions": runs[-1]["versions"],
    }


def _count_planned_runs(config: Mapping[str, Any]) -> int:
    folds = FOLDS if config["folds"] else 1
    variants = sum(len(experiment_variants.list_variants(config, system)) for system in config["systems"])
    return config["seeds"] * folds * variants


def _build_rows(runs: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> list[Row]:
    """Builds a row for each variant of a system that has a seed with all of its folds."""
    folds = FOLDS if config["folds"] else 1
    grouped: dict[RowKey, dict[int, list]] = {}
    for run in runs:
        key = build_key(run["system"], *experiment_variants.identify_variant(config, run["system"], run["config"]))
        grouped.setdefault(key, {}).setdefault(run["seed"], []).append(run)
    rows = []
    for system in config["systems"]:
        for key in sorted((key for key in grouped if key[0] == system), key=lambda key: (key[1] or 0, key[2])):
            _, alpha, sweep = key
            by_seed = grouped[key].items()
            complete = {seed: pool_folds(seed_runs) for seed, seed_runs in by_seed if len(seed_runs) == folds}
            if complete:
                rows.append(build_row(system, alpha, complete, dict(sweep) or None))
    return rows


def _compare_with_others(rows: Sequence[Row], systems: Sequence[str]) -> list[dict[str, Any]]:
    """Compares the proposed and then the conventional system with every other at the same alpha, if that has one.

    The paper compares the conventional system with the single-task systems in section III-A.
    """
    by_name = {(row["system"], row["alpha"]): row for row in rows if not row["sweep"]}
    others = [CONVENTIONAL, *(name for name in systems if name not in (CONVENTIONAL, PROPOSED))]
    pairs = [(PROPOSED, other) for other in others] + [(CONVENTIONAL, other) for other in others[1:]]
    return [
        entry
        for alpha in dict.fromkeys(row["alpha"] for row in rows)
        for first, second in pairs
        if (first, alpha) in by_name and (row := by_name.get((second, alpha), by_name.get((second, None))))
        for entry in compare_rows(by_name[first, alpha], row)
    ]


def _compare_sweeps(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Compares each swept value of a system with the system's own value."""
    own = {row["system"]: row for row in rows if not row["sweep"]}
    return [entry for row in rows if row["sweep"] and row["system"] in own for entry in compare_rows(row, own[row["system"]])]


def _judge_claims(comparisons: Sequence[Mapping[str, Any]], *, by_alpha: bool) -> dict[str, str]:
    """Judges the claim for each alpha, or once under the key ""."""
    if not by_alpha:
        return {"": judge_claim(comparisons)}
    alphas = dict.fromkeys(entry["alpha"] for entry in comparisons if entry["alpha"] is not None)
    return {f"{alpha:g}": judge_claim([entry for entry in comparisons if entry["alpha"] == alpha]) for alpha in alphas}


def compare_with_paper(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Lists our means next to the paper's Table IV, for the systems in both. Only scores on the paper's data are comparable."""
    return [
        {
            "system": row["system"], "alpha": row["alpha"], "task": task, "score": name,
            "paper": theirs, "ours": row[task][name]["mean"], "difference": row[task][name]["mean"] - theirs,
        }
        for row in rows
        if not row["sweep"]
        for task, scores in paper.TABLE_IV.get(row["system"], {}).items()
        for name, theirs in scores.items()
    ]  # fmt: skip
