"""From the runs of an experiment to its results.json: means over seeds, paired comparisons, and what they say."""

import collections
import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from mfl_jax import metrics
from mfl_jax.errors import InputError
from mfl_jax.reporting import paper, statistics
from mfl_jax.runtime import workdir_config

SCORES = {
    ("scene", "micro_f"): "scene micro F",
    ("scene", "macro_f"): "scene macro F",
    ("event", "micro_f"): "event micro F",
    ("event", "macro_f"): "event macro F",
}
"""The four scores of the paper's Table IV."""
PROPOSED, CONVENTIONAL = "proposed", "conventional_mtl"


def finished_runs(home: pathlib.Path) -> list[dict]:
    """The results.json of every complete run of an experiment, with its config under `config`."""
    runs = []
    for file in sorted(home.glob("members/*/results.json")):
        results = json.loads(file.read_text(encoding="utf-8"))
        runs.append({**results, "config": workdir_config.read_config(file.parent / "config.json")})
    if not runs:
        raise InputError(f"{home}: no complete run of an experiment; python -m mfl_jax.experiment makes them")
    return runs


def pooled(runs: Sequence[Mapping]) -> dict:
    """The scores of one seed: those of its run or, in cross-validation, of the counts of its folds added up."""
    if len(runs) == 1:
        return {task: runs[0][task] for task in ("scene", "event") if task in runs[0]}
    ratios = {"scene": metrics.scene_ratios, "event": metrics.frame_ratios}
    counts = [jax.tree.map(np.asarray, run["counts"], is_leaf=lambda leaf: isinstance(leaf, list)) for run in runs]
    total = jax.tree.map(lambda *parts: sum(parts), *counts)
    return {task: ratios[task](total[task]) for task in total}


def build_row(system: str, alpha: float | None, seeds: Mapping[int, Mapping]) -> dict:
    """A row of the tables.

    Args:
      system: its name. alpha: where several are gone through. seeds: the scores of each seed, as `pooled` returns them.

    Returns:
      {"system", "alpha", "seeds", "scene": {"micro_f": {"n", "mean", "std", "interval", "values"}, "macro_f", "class_f",
      "confusion"}, "event": {"micro_f", "macro_f", "error_rate", "class_f"}}; `class_f` holds a mean a class, `confusion` the
      sum over seeds.
    """
    row = {"system": system, "alpha": alpha, "seeds": sorted(seeds)}
    ordered = [seeds[seed] for seed in row["seeds"]]
    for task in ("scene", "event"):
        if task not in ordered[0]:
            continue
        row[task] = {"class_f": np.mean([scores[task]["class_f"] for scores in ordered], axis=0).tolist()}
        for name in ("micro_f", "macro_f", "error_rate"):
            values = [scores[task].get(name) for scores in ordered]
            if None not in values:
                row[task][name] = {**dataclasses.asdict(statistics.summary(values)), "values": values}
        if task == "scene":
            row[task]["confusion"] = np.sum([scores[task]["confusion"] for scores in ordered], axis=0).tolist()
    return row


def comparison(first: Mapping, second: Mapping) -> list[dict]:
    """Compares two rows by the seeds that both have: an entry a score that both have, with a verdict in words."""
    seeds = [seed for seed in first["seeds"] if seed in second["seeds"]]
    made = []
    for (task, name), title in SCORES.items():
        if task not in first or task not in second or not seeds:
            continue
        values = [[row[task][name]["values"][row["seeds"].index(seed)] for seed in seeds] for row in (first, second)]
        compared = statistics.paired(*values)
        sentence = statistics.verdict(compared, first=first["system"], second=second["system"], score=title)
        made.append(
            {
                "first": first["system"], "second": second["system"], "alpha": first["alpha"], "task": task, "score": name,
                **dataclasses.asdict(compared), "verdict": sentence,
            }
        )  # fmt: skip
    return made


def claim(comparisons: Sequence[Mapping]) -> str:
    """The paper's claim, that the proposed system beats the conventional one in all four scores, in a plain sentence."""
    own = [entry for entry in comparisons if (entry["first"], entry["second"]) == (PROPOSED, CONVENTIONAL)]
    if not own:
        return "The paper's claim was not put to the test: it needs the systems proposed and conventional_mtl."
    kinds = collections.defaultdict(list)
    for entry in own:
        better, worse = " is better than " in entry["verdict"], " is worse than " in entry["verdict"]
        kinds["holds" if better else "fails" if worse else "open"].append(SCORES[entry["task"], entry["score"]])
    parts = {
        "holds": "it holds for {}",
        "fails": "it does not hold for {}, where the proposed system is worse",
        "open": "there is too little evidence for {}",
    }
    said = "; ".join(text.format(", ".join(kinds[kind])) for kind, text in parts.items() if kinds[kind])
    return f"The paper's claim that the proposed system beats the conventional one, on this data set: {said}."


def summarise(home: pathlib.Path) -> dict:
    """Makes what the results.json of an experiment holds of the runs that are complete."""
    runs = finished_runs(home)
    config = workdir_config.read_config(home / "config.json")
    several_alphas = bool(config["alphas"])
    folds = 4 if config["folds"] else 1
    swept = [len(system.get("tasks", config["tasks"])) == 2 for system in config["systems"].values()]
    planned = config["seeds"] * folds * sum(len(config["alphas"]) if both and several_alphas else 1 for both in swept)
    found = collections.defaultdict(lambda: collections.defaultdict(list))
    for run in runs:
        alpha = run["config"]["alpha"] if several_alphas and len(run["config"]["tasks"]) == 2 else None
        found[run["system"], alpha][run["seed"]].append(run)
    rows = []
    for system in config["systems"]:
        for key in sorted((key for key in found if key[0] == system), key=lambda key: key[1] or 0):
            complete = {seed: pooled(of_seed) for seed, of_seed in found[key].items() if len(of_seed) == folds}
            if complete:
                rows.append(build_row(*key, complete))
    if not rows:
        raise InputError(f"{home}: no seed has all of its folds yet")
    by_name = {(row["system"], row["alpha"]): row for row in rows}
    baselines = [CONVENTIONAL, *(name for name in config["systems"] if name not in (CONVENTIONAL, PROPOSED))]
    comparisons = [
        entry
        for alpha in dict.fromkeys(row["alpha"] for row in rows)
        for other in baselines
        if (PROPOSED, alpha) in by_name and (other, alpha) in by_name
        for entry in comparison(by_name[PROPOSED, alpha], by_name[other, alpha])
    ]
    if several_alphas:
        claims = {
            f"{alpha:g}": claim([entry for entry in comparisons if entry["alpha"] == alpha])
            for alpha in dict.fromkeys(entry["alpha"] for entry in comparisons)
        }
    else:
        claims = {"": claim(comparisons)}
    data = json.loads((home / "data.json").read_text(encoding="utf-8"))
    return {
        "experiment": config["name"],
        "dataset": config["dataset"],
        "split": "development, four folds pooled" if config["folds"] else "evaluation",
        "runs": {"complete": len(runs), "planned": planned},
        "rows": rows,
        "comparisons": comparisons,
        "claims": claims,
        "floors": data["floors"],
        "data": data["splits"],
        "paper": paper_differences(rows),
        "scenes": runs[0]["scenes"],
        "events": runs[0]["events"],
        "device": sorted({run["device"] for run in runs}),
        "versions": runs[-1]["versions"],
    }  # fmt: skip


def paper_differences(rows: Sequence[Mapping]) -> list[dict]:
    """The paper's Table IV beside our means, for the systems that both have; only on its own data do they mean the same."""
    made = []
    for row in rows:
        for task, scores in paper.TABLE_IV.get(row["system"], {}).items():
            for name, theirs in scores.items():
                ours = row[task][name]["mean"]
                made.append(
                    {"system": row["system"], "alpha": row["alpha"], "task": task, "score": name, "paper": theirs, "ours": ours,
                     "difference": ours - theirs}
                )  # fmt: skip
    return made
