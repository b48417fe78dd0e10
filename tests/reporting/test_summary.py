"""The summary of an experiment against sums over the results of its runs."""

import json
import shutil

import numpy as np
import pytest

from mfl_jax import metrics
from mfl_jax.errors import InputError
from mfl_jax.reporting import statistics, summary

SYSTEMS = ("cnn_asc", "cnn_bigru_sed", "conventional_mtl", "proposed")


def read_results(home, name):
    return json.loads((home / "members" / name / "results.json").read_text())


def test_rows_are_means_over_seeds(homes):
    results = summary.summarise_experiment(homes["table4"])
    assert [row["system"] for row in results["rows"]] == list(SYSTEMS)
    assert results["runs"] == {"complete": 8, "planned": 8}
    for row in results["rows"]:
        runs = [read_results(homes["table4"], f"{row['system']}-seed{seed}") for seed in (0, 1)]
        for task in ("scene", "event"):
            assert (task in row) == (task in runs[0])
            if task in row:
                assert row[task]["micro_f"]["mean"] == pytest.approx(np.mean([run[task]["micro_f"] for run in runs]))
                assert row[task]["class_f"] == pytest.approx(np.mean([run[task]["class_f"] for run in runs], axis=0))
        if "scene" in row:
            assert np.sum(row["scene"]["confusion"]) == sum(run["clips"] for run in runs)


def test_joint_systems_are_compared_with_every_other_on_the_same_seeds(homes):
    results = summary.summarise_experiment(homes["table4"])
    pairs = [(entry["first"], entry["second"], entry["task"], entry["score"]) for entry in results["comparisons"]]
    single = [("cnn_asc", "scene"), ("cnn_bigru_sed", "event")]
    expected = [("proposed", "conventional_mtl", task, score) for task, score in summary.SCORES]
    for first in ("proposed", "conventional_mtl"):
        expected += [(first, second, task, score) for second, task in single for score in ("micro_f", "macro_f")]
    assert pairs == expected
    entry = results["comparisons"][pairs.index(("proposed", "conventional_mtl", "event", "micro_f"))]
    values = [
        [read_results(homes["table4"], f"{system}-seed{seed}")["event"]["micro_f"] for seed in (0, 1)]
        for system in ("proposed", "conventional_mtl")
    ]
    assert entry["difference"]["mean"] == pytest.approx(statistics.compare_pairs(*values).difference.mean)
    assert "too little evidence" in results["claims"][""]  # two seeds are never enough


def compare(*differences):
    """Comparisons of the proposed with the conventional system that differ by these values, one list per score."""
    rows = []
    for system, factor in (("proposed", 1.0), ("conventional_mtl", 0.0)):
        row = {
            "system": system,
            "alpha": None,
            "sweep": None,
            "seeds": list(range(len(differences[0]))),
            "scene": {},
            "event": {},
            "redrawn": None,
        }
        for (task, score), values in zip(summary.SCORES, differences, strict=True):
            row[task][score] = {"values": [factor * value for value in values]}
        rows.append(row)
    return summary.compare_rows(*rows)


def test_claim_is_judged_score_by_score():
    text = summary.judge_claim(compare([2.0, 2.1, 1.9], [-2.0, -2.1, -1.9], [1.0, -1.0, 0.1], [3.0, 3.1, 3.2]))
    assert text == (
        "The paper claims that the proposed system beats the conventional one in all 4 scores. In this experiment it is better "
        "in scene micro F and event macro F. In this experiment it is worse in scene macro F, which contradicts the claim. "
        "There is too little evidence to decide on event micro F. "
        "(Paired t-tests over 3 seeds, p corrected for 4 scores by Holm's method; level 5 %.)"
    )
    assert "was not tested" in summary.judge_claim([])


def test_the_claim_is_corrected_for_the_number_of_scores():
    """One score of four with p = 0.03 is clear alone, not in a sentence on four."""
    entries = compare([1.0, 1.4, 0.62], [1.0, -1.0, 0.1], [1.0, -1.1, 0.1], [1.0, -1.2, 0.1])
    assert 0.02 < entries[0]["p_t"] < 0.05 < entries[0]["p_holm"] == pytest.approx(4 * entries[0]["p_t"])
    assert "is better" in entries[0]["verdict"]
    text = summary.judge_claim(entries)
    assert "too little evidence to decide on all 4 scores" in text and "corrected for 4 scores by Holm's method" in text


def test_one_row_per_alpha(homes):
    results = summary.summarise_experiment(homes["figure2"])
    assert [(row["system"], row["alpha"]) for row in results["rows"]] == [
        ("cnn_asc", None), ("conventional_mtl", 0.01), ("conventional_mtl", 1.0), ("proposed", 0.01), ("proposed", 1.0),
    ]  # fmt: skip
    assert set(results["claims"]) == {"0.01", "1", "alpha_spread", "alpha_best_0.01", "alpha_best_1"}
    assert results["runs"] == {"complete": 10, "planned": 10} and results["sweeps"] == {}
    for entry in results["comparisons"]:
        assert entry["difference"]["n"] == 2


def test_one_row_per_swept_value(homes):
    results = summary.summarise_experiment(homes["sweep"])
    assert [(row["system"], row["sweep"]) for row in results["rows"]] == [
        ("conventional_mtl", None), ("proposed", None), ("proposed", {"eta": 0.0}), ("proposed", {"eta": 1.0}),
    ]  # fmt: skip
    assert results["runs"] == {"complete": 8, "planned": 8} and results["sweeps"] == {"eta": {"proposed": 0.5}}
    assert [entry["system"] for entry in results["paper"]] == ["conventional_mtl"] * 4 + ["proposed"] * 4
    assert set(results["claims"]) == {""} and results["alpha_dependence"] is None
    values = [read_results(homes["sweep"], f"proposed-eta1-seed{seed}")["event"]["macro_f"] for seed in (0, 1)]
    assert results["rows"][3]["event"]["macro_f"]["values"] == values
    own = [read_results(homes["sweep"], f"proposed-seed{seed}")["event"]["macro_f"] for seed in (0, 1)]
    entry = results["comparisons"][-1]
    assert (entry["first"], entry["second"], entry["sweep"]) == ("proposed", "proposed", {"eta": 1.0})
    assert entry["difference"]["mean"] == pytest.approx(np.mean(values) - np.mean(own))
    assert "proposed with eta 1 differs from proposed" in entry["verdict"]


def test_experiments_from_before_sweeps_are_summarised(homes, tmp_path):
    home = shutil.copytree(homes["figure2"], tmp_path / "home")
    config = json.loads((home / "config.json").read_text())
    del config["sweep"]
    (home / "config.json").write_text(json.dumps(config))
    assert summary.summarise_experiment(home) == summary.summarise_experiment(homes["figure2"])


def test_folds_are_pooled_as_counts(homes):
    results = summary.summarise_experiment(homes["folds"])
    folds = [read_results(homes["folds"], f"proposed-fold{fold}-seed0") for fold in (1, 2, 3, 4)]
    assert results["split"] == "development, four folds pooled" and results["runs"]["planned"] == 4
    counts = {key: np.sum([fold["counts"]["event"][key] for fold in folds], axis=0) for key in folds[0]["counts"]["event"]}
    (row,) = results["rows"]
    assert row["event"]["micro_f"]["mean"] == pytest.approx(metrics.frame_ratios(counts)["micro_f"])
    confusion = np.sum([fold["scene"]["confusion"] for fold in folds], axis=0)
    assert row["scene"]["confusion"] == confusion.tolist()
    assert confusion.sum() == sum(results["data"]["development"]["clips"])  # every clip once


def test_experiment_without_finished_runs_has_no_results(homes, tmp_path):
    for name in ("config.json", "data.json"):
        shutil.copy(homes["table4"] / name, tmp_path / name)
    with pytest.raises(InputError, match="no finished run"):
        summary.summarise_experiment(tmp_path)


def test_seeds_without_all_of_their_folds_are_left_out(homes, tmp_path):
    home = shutil.copytree(homes["folds"], tmp_path / "home", ignore=shutil.ignore_patterns("*fold3*"))
    with pytest.raises(InputError, match="no seed has all of its folds yet"):
        summary.summarise_experiment(home)
