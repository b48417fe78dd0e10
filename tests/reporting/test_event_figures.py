"""Figures of event probabilities and floors of runs, from their results.json to the table of a report."""

import json
import shutil

import numpy as np
import pytest

from mfl_jax.data.prepared_dataset import open_dataset
from mfl_jax.reporting import event_figures, reliability, summary
from mfl_jax.training import histogram_file, score_histograms
from mfl_jax.training.score_histograms import BINS

RUN = {
    "event_probabilities": {
        "average_precision": {"mean_above_prevalence": 0.25}, "oracle_thresholds": {"macro_f": 30.0}, "brier": 0.125,
    },
    "floors": {"event": {"events_of_predicted_scene": {"macro_f": 11.0}, "events_of_true_scene": {"macro_f": 12.0}}},
}  # fmt: skip


def test_figures_are_means_over_folds_and_then_over_seeds():
    better = json.loads(json.dumps(RUN).replace("0.25", "0.75"))
    first, second = (event_figures.collect_figures(runs, None) for runs in ([RUN, better], [better, better]))
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
    assert event_figures.collect_figures([alone], None).keys() == {
        "average_precision_above_prevalence", "oracle_macro_f", "brier", "floor_true_scene_macro_f",
    }  # fmt: skip
    assert event_figures.collect_figures([RUN, {"floors": {"event": {}}}], None) == {}
    assert event_figures.summarise_figures([{}, {"brier": 0.5}]) == {}


def write_fold(folder, logits, active):
    """Writes the histogram of a fold with one event as training does, and returns its results."""
    histogram = np.zeros((1, 2, BINS), np.int64)
    for logit, label in zip(logits, active, strict=True):
        histogram[0, label, int(logit * 128) + BINS // 2] += 1
    folder.mkdir()
    histogram_file.write_histogram(folder, histogram, ["bird"])
    floors = {"event": {"events_of_true_scene": {"macro_f": float(len(logits))}}}
    probabilities = json.loads(json.dumps(score_histograms.summarise_scores(histogram)))
    return {"folder": folder, "events": ["bird"], "event_probabilities": probabilities, "floors": floors}


def average_precision(logits, active):
    """Mean, over active frames, of the precision at the threshold that just detects the frame; without ties."""
    order = np.argsort(logits)[::-1]
    hits = np.cumsum(np.array(active)[order])
    return float(np.mean((hits / np.arange(1, len(order) + 1))[np.array(active)[order] == 1]))


def test_folds_are_pooled_before_they_are_scored(tmp_path):
    """Each fold ranks its frames perfectly; the second one's scores are 3 lower, so all frames together are not."""
    logits, active = ([2, 1, -1, -2], [-1.5, -2.5, -4, -5]), ([1, 1, 0, 0], [1, 0, 0, 0])
    runs = [write_fold(tmp_path / f"{n}", logits[n], active[n]) for n in (0, 1)]
    assert [run["event_probabilities"]["average_precision"]["mean"] for run in runs] == [1, 1]
    figures = event_figures.collect_figures(runs, event_figures.pool_probabilities(runs))
    want = average_precision(np.concatenate(logits), np.concatenate(active))
    assert want == pytest.approx((1 + 1 + 3 / 4) / 3)  # by hand
    assert figures["average_precision_above_prevalence"] == pytest.approx(want - 3 / 8)
    assert figures["oracle_macro_f"] == pytest.approx(600 / 7)  # all three found, with one false alarm
    errors = [active[n] - 1 / (1 + np.exp(-np.array(logits[n]) - 1 / 256)) for n in (0, 1)]
    assert figures["brier"] == pytest.approx(np.mean(np.concatenate(errors) ** 2))
    assert figures["floor_true_scene_macro_f"] == 4  # remains the mean
    assert event_figures.pool_probabilities(runs[:1]) == runs[0]["event_probabilities"]


def test_folds_without_their_own_histogram_are_not_pooled(tmp_path):
    runs = [write_fold(tmp_path / f"{n}", [2, n, -1], [1, 0, 0]) for n in (0, 1)]
    assert event_figures.pool_probabilities(runs) is not None
    for change in ({"events": ["car"]}, {"event_probabilities": RUN["event_probabilities"] | {"reliability": []}}):
        assert event_figures.pool_probabilities([runs[0], runs[1] | change]) is None  # of another evaluation
    assert event_figures.pool_probabilities([runs[0], {"floors": {}, "folder": tmp_path / "1"}]) is None
    (tmp_path / "1" / histogram_file.FILE).unlink()
    assert event_figures.pool_probabilities(runs) is None  # scored by an earlier version
    assert event_figures.collect_figures(runs, None)["floor_true_scene_macro_f"] == 3


def test_intervals_are_pooled_by_their_cells():
    """The second interval is empty in one run, the third in both."""
    nothing = {"mean_score": None, "share_active": None, "cells": 0}
    one = [{"mean_score": 0.1, "share_active": 0.0, "cells": 300}, nothing, nothing]
    two = [
        {"mean_score": 0.2, "share_active": 0.4, "cells": 900},
        {"mean_score": 0.5, "share_active": 0.6, "cells": 999},
        nothing,
    ]
    pooled = reliability.pool_intervals([one, two])
    assert pooled[0] == {"mean_score": pytest.approx(0.175), "share_active": pytest.approx(0.3), "cells": 1200}
    assert pooled[1:] == [{"mean_score": pytest.approx(0.5), "share_active": pytest.approx(0.6), "cells": 999}, nothing]
    assert reliability.select_points(pooled) == [(pytest.approx(0.175), pytest.approx(0.3))]
    assert reliability.pool_intervals([one, None]) is None and reliability.select_points(None) == []


def test_the_report_states_what_is_pooled():
    rows = [
        {"system": system, "alpha": None, "sweep": None, "event": {}, "event_scores_pooled": pooled}
        for system, pooled in (("proposed", True), ("mine", False))
    ]
    both = event_figures.note_pooling(rows, folds=True)
    assert "of the pooled scores of its folds" in both and "The figures of mine are means over folds." in both
    assert "means over folds. For" not in event_figures.note_pooling(rows[:1], folds=True)
    assert event_figures.note_pooling(rows[1:], folds=True).startswith("The figures of mine")
    assert event_figures.note_pooling(rows, folds=False) == "" == event_figures.note_pooling([{"system": "a"}], folds=True)


def test_a_cross_validation_is_summarised_from_pooled_scores(homes):
    """The answers of the four folds are logits of 1 and -1, so that the pooled scores follow from the counts alone."""
    results = summary.summarise_experiment(homes["folds"])
    (row,) = results["rows"]
    files = sorted(homes["folds"].glob("members/*/results.json"))
    counts = [json.loads(file.read_text())["counts"]["event"] for file in files]
    tp, fp, fn = (np.sum([count[name] for count in counts], axis=0) for name in ("tp", "fp", "fn"))
    frames = sum(sum(interval["cells"] for interval in json.loads(file.read_text())["event_probabilities"]["reliability"])
                 for file in files) / len(tp)  # fmt: skip
    prevalence = (tp + fn) / frames
    precision = tp / (tp + fn) * tp / (tp + fp) + fn / (tp + fn) * prevalence
    want = np.mean((precision - prevalence)[tp + fn > 0])
    assert len(files) == 4 and row["event_scores_pooled"] and "pooled" in results["event_figures_note"]
    assert row["event_figures"]["average_precision_above_prevalence"]["values"] == [pytest.approx(want)]
    assert sum(interval["cells"] for interval in row["reliability"]) == frames * len(tp)


def test_summary_of_an_experiment(homes, small_data):
    results = summary.summarise_experiment(homes["table4"])
    rows = {row["system"]: row["event_figures"] for row in results["rows"]}
    of_folds = {"shared_threshold_macro_f", "class_thresholds_macro_f", "class_thresholds_micro_f"}
    assert rows["cnn_asc"] == {} and rows["proposed"].keys() == event_figures.FIGURES.keys() - of_folds
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
    assert row["reliability"] is None and not row["event_scores_pooled"]
    assert row["event_figures"] == {} and event_figures.build_figure_table({"rows": [row]})[1][2:] == []


def build_row(system, seeds, **figures):
    """A row with figures of each seed."""
    of_seeds = [dict(zip(figures, values, strict=True)) for values in zip(*figures.values(), strict=True)]
    summarised = event_figures.summarise_figures(of_seeds)
    return {"system": system, "alpha": None, "sweep": None, "seeds": seeds, "event_figures": summarised}


def test_figures_are_compared_with_the_proposed_system_by_common_seeds():
    rows = [
        build_row("proposed", [0, 1, 2], average_precision_above_prevalence=[0.1, 0.2, 0.3], brier=[0.5, 0.5, 0.5]),
        build_row("improved", [1, 2, 3], average_precision_above_prevalence=[0.25, 0.45, 0.9], brier=[0.4, 0.4, 0.4]),
        build_row("other", [0, 1, 2], average_precision_above_prevalence=[0.1, 0.2, 0.3]),
    ]
    entries = event_figures.compare_figures(rows)
    assert [(entry["second"], entry["figure"]) for entry in entries] == [
        ("improved", "average_precision_above_prevalence"),
        ("other", "average_precision_above_prevalence"),
        ("improved", "brier"),
    ]  # fmt: skip
    assert entries[0]["difference"]["n"] == 2 and entries[0]["difference"]["mean"] == pytest.approx(-(0.05 + 0.15) / 2)
    # Student's t with one degree of freedom: 0.1 / (0.0707 / sqrt(2)) = 2, p = 1 - 2 / pi * atan(2).
    assert entries[0]["p_t"] == pytest.approx(1 - 2 / np.pi * np.arctan(2)) and entries[1]["p_t"] == 1
    assert entries[0]["p_holm"] == pytest.approx(2 * entries[0]["p_t"])
    table = event_figures.build_figure_comparison_table({"event_figure_comparisons": entries})
    assert table[1][:5] == ["Proposed (multi-focal)", "improved", "Macro AP minus prevalence", "2", "-0.1000"]


def test_a_system_without_alpha_is_compared_at_each_alpha():
    rows = [build_row("proposed", [0, 1], brier=[0.5, 0.4]) | {"alpha": alpha} for alpha in (0.1, 1.0)]
    rows += [build_row("cnn_bigru_sed", [0, 1], brier=[0.2, 0.3]), build_row("other", [0, 1], brier=[0.2, 0.3]) | {"alpha": 1.0}]
    rows += [build_row("proposed", [0, 1], brier=[0.5, 0.5]) | {"sweep": {"eta": 1.0}}]
    compared = [(entry["alpha"], entry["second"]) for entry in event_figures.compare_figures(rows)]
    assert compared == [(0.1, "cnn_bigru_sed"), (1.0, "cnn_bigru_sed"), (1.0, "other")]


def test_figures_at_the_thresholds_of_folds_are_read():
    scores = {"shared": {"macro_f": 40.0}, "by_event": {"macro_f": 50.0, "micro_f": 60.0}}
    run = RUN | {"event_probabilities": RUN["event_probabilities"] | {"fold_thresholds": scores}}
    figures = event_figures.collect_figures([run], run["event_probabilities"])
    names = ("shared_threshold_macro_f", "class_thresholds_macro_f", "class_thresholds_micro_f")
    assert [figures[name] for name in names] == [40, 50, 60]
