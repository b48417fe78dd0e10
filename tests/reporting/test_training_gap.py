"""Scores of training clips beside those of scored clips."""

import json

import pytest

from mfl_jax.reporting import summary, training_gap, write_report

TRAINED = {"scene": {"micro_f": 90.0, "macro_f": 80.0}, "event": {"micro_f": 60.0, "average_precision_above_prevalence": 0.5}}
SCORED = {
    "scene": {"micro_f": 70.0, "macro_f": 85.0}, "event": {"micro_f": 40.0, "macro_f": 20.0},
    "event_figures": {"average_precision_above_prevalence": 0.25},
}  # fmt: skip


def seed(runs):
    return SCORED | {"training": training_gap.collect_training(runs)}


def test_gaps_are_means_over_folds_and_then_over_seeds():
    worse = json.loads(json.dumps(TRAINED).replace("90.0", "86.0"))
    first, second = seed([{"training": TRAINED}, {"training": worse}]), seed([{"training": worse}] * 2)
    entries = training_gap.summarise_gaps([first, second])
    by_score = {(entry["task"], entry["score"]): entry for entry in entries}
    assert ("event", "macro_f") not in by_score  # not among the training scores
    entry = by_score["scene", "micro_f"]
    assert entry["training"]["values"] == [88, 86] and entry["evaluation"]["values"] == [70, 70]
    assert entry["gap"]["mean"] == 17 and entry["gap"]["values"] == [18, 16]
    row = {"system": "proposed", "alpha": 0.1, "sweep": None, "training_gap": entries}
    table = training_gap.build_gap_table({"rows": [row, {**row, "training_gap": []}]})
    assert len(table) == 5 and {len(cells) for cells in table} == {5}
    assert table[1][1:4] == ["Scene micro F [%]", "87.00 ± 12.71", "70.00 ± 0.00"] and table[1][4] == "+17.00 ± 12.71"
    assert table[2][4] == "-5.00 ± 0.00"
    assert table[4][1:] == ["Event macro AP minus prevalence [points]", "50.00 ± 0.00", "25.00 ± 0.00", "+25.00 ± 0.00"]


def test_seeds_without_training_scores_have_no_gap():
    assert training_gap.collect_training([{"training": TRAINED}, {}]) == {}
    assert training_gap.summarise_gaps([seed([{"training": TRAINED}]), seed([{}])]) == []
    alone = seed([{"training": TRAINED}])
    del alone["event"]
    assert {entry["task"] for entry in training_gap.summarise_gaps([alone])} == {"scene"}


def test_every_system_of_a_report_has_its_training_scores(homes):
    results = summary.summarise_experiment(homes["table4"])
    for row in results["rows"]:
        trained = json.loads((homes["table4"] / "members" / f"{row['system']}-seed1" / "results.json").read_text())["training"]
        assert {entry["task"] for entry in row["training_gap"]} == trained.keys() - {"clips"}
        for entry in row["training_gap"]:
            assert entry["training"]["values"][1] == pytest.approx(trained[entry["task"]][entry["score"]])
            if entry["score"] == "macro_f":
                assert entry["evaluation"]["mean"] == row[entry["task"]]["macro_f"]["mean"]
    assert len(write_report.build_tables(results)["training_gap"]) == 1 + 2 + 3 + 5 + 5
