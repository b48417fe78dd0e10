"""Figures of event probabilities and floors of runs, from their results.json to the table of a report."""

import json
import shutil

import numpy as np
import pytest

from mfl_jax.data.prepared_dataset import open_dataset
from mfl_jax.reporting import event_figures, summary

RUN = {
    "event_probabilities": {
        "average_precision": {"mean_above_prevalence": 0.25}, "oracle_thresholds": {"macro_f": 30.0}, "brier": 0.125,
    },
    "floors": {"event": {"events_of_predicted_scene": {"macro_f": 11.0}, "events_of_true_scene": {"macro_f": 12.0}}},
}  # fmt: skip


def test_figures_are_means_over_folds_and_then_over_seeds():
    better = json.loads(json.dumps(RUN).replace("0.25", "0.75"))
    first, second = event_figures.collect_figures([RUN, better]), event_figures.collect_figures([better, better])
    assert first == {
        "average_precision_above_prevalence": 0.5, "oracle_macro_f": 30, "floor_predicted_scene_macro_f": 11,
        "floor_true_scene_macro_f": 12, "brier": 0.125,
    }  # fmt: skip
    summarised = event_figures.summarise_figures([first, second])
    assert summarised["average_precision_above_prevalence"]["mean"] == 0.625
    assert summarised["average_precision_above_prevalence"]["values"] == [0.5, 0.75]
    row = {"system": "proposed", "alpha": None, "sweep": None, "event": {"macro_f": {"mean": 20.0}}, "event_figures": summarised}
    header, cells = event_figures.build_figure_table({"rows": [row, {"system": "cnn_asc"}]})
    assert len(header) == len(cells) and cells[1:] == ["20.00", "0.6250", "30.00", "11.00", "12.00", "0.1250"]


def test_what_one_run_lacks_is_left_out():
    """Nothing predicts scenes in a system of events alone; a run scored by an earlier version has none of the figures."""
    alone = RUN | {"floors": {"event": {"events_of_true_scene": {"macro_f": 12.0}}}}
    assert event_figures.collect_figures([alone]).keys() == event_figures.FIGURES.keys() - {"floor_predicted_scene_macro_f"}
    assert event_figures.collect_figures([RUN, {"floors": {"event": {}}}]) == {}
    assert event_figures.summarise_figures([{}, {"brier": 0.5}]) == {}


def test_summary_of_an_experiment(homes, small_data):
    results = summary.summarise_experiment(homes["table4"])
    rows = {row["system"]: row["event_figures"] for row in results["rows"]}
    assert rows["cnn_asc"] == {} and rows["proposed"].keys() == event_figures.FIGURES.keys()
    assert "floor_predicted_scene_macro_f" not in rows["cnn_bigru_sed"]
    read = [json.loads((homes["table4"] / "members" / f"proposed-seed{n}" / "results.json").read_text()) for n in (0, 1)]
    want = np.mean([run["floors"]["event"]["events_of_predicted_scene"]["macro_f"] for run in read])
    assert rows["proposed"]["floor_predicted_scene_macro_f"]["mean"] == pytest.approx(want)
    dataset = open_dataset("annotated_audio/small", small_data[0] / "data")
    listed = [{event.label for event in recording.events} for recording in dataset.recordings("development")]
    assert results["data"]["development"]["event_recordings"] == [sum(e in have for have in listed) for e in results["events"]]


def test_experiments_scored_by_an_earlier_version_are_summarised(homes, tmp_path):
    home = shutil.copytree(homes["folds"], tmp_path / "home")
    for file in home.glob("members/*/results.json"):
        results = json.loads(file.read_text())
        del results["event_probabilities"]
        for floor in ("events_of_true_scene", "events_of_predicted_scene"):
            del results["floors"]["event"][floor]
        file.write_text(json.dumps(results))
    (row,) = summary.summarise_experiment(home)["rows"]
    assert row["event_figures"] == {} and set(event_figures.build_figure_table({"rows": [row]})[1][2:]) == {""}
