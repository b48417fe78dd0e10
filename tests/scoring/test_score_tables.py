"""The printed tables of scores."""

import io

import pytest
import rich.console

from mfl_jax.scoring import event_list_scores, score_tables
from support.event_examples import events, print_to_text


@pytest.mark.parametrize("counts", [{"scene_clips": 97}, {"scene_clips": 125}, {}])
def test_clips_that_are_not_scored_for_scenes_are_counted(counts):
    """Results of older versions have no such count."""
    scores = {"micro_f": 50.0, "macro_f": 40.0}
    floors = {"scene": {"majority": {**scores, "answer": "a"}}}
    results = {"system": "s", "dataset": "d", "split": "evaluation", "clips": 125, "scene": scores, "floors": floors, **counts}
    out = io.StringIO()
    score_tables.print_results(results, rich.console.Console(file=out, width=100))
    said = "scenes are scored on 97 of 125 clips; the others are too short" in " ".join(out.getvalue().split())
    assert said == (counts.get("scene_clips") == 97) and "50.00" in out.getvalue()


def test_average_precision_and_upper_bound_are_printed():
    f = {"micro_f": 50.0, "macro_f": 40.0, "error_rate": None}
    results = {
        "system": "s", "dataset": "d", "split": "evaluation", "clips": 5, "event": f,
        "floors": {"event": {kind: f for kind in ("always_on", "all_off", "events_of_predicted_scene")}},
        "event_probabilities": {
            "average_precision": {"mean": 0.625, "mean_above_prevalence": 0.5},
            "oracle_thresholds": {"macro_f": 45.0, "note": "upper bound"},
        },
    }  # fmt: skip
    out = io.StringIO()
    score_tables.print_results(results, rich.console.Console(file=out, width=100))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.getvalue().splitlines()]
    assert ["event macro AP", "62.50", "12.50", "random scores (the prevalence)"] in rows
    assert ["event macro F, oracle", "45.00", "", "upper bound"] in rows
    assert ["", "", "40.00", "all events of the predicted scene"] in rows and "true scene" not in out.getvalue()
    for mean in (None, 0.5):  # no event is active in the split; results of an earlier version
        results["event_probabilities"] = {} if mean else {"average_precision": {"mean": None}}
        score_tables.print_results(results, rich.console.Console(file=(out := io.StringIO()), width=100))
        assert "AP" not in out.getvalue()


@pytest.mark.parametrize("tasks", [("scene",), ("event",), ("scene", "event")])
def test_training_scores_are_printed_in_one_row(tasks):
    f = {"micro_f": 50.0, "macro_f": 40.0, "error_rate": None, "answer": "a"}
    floors = {"scene": {"majority": f}, "event": {"always_on": f, "all_off": f}}
    results = {"system": "s", "dataset": "d", "split": "evaluation", "clips": 5, "floors": floors} | dict.fromkeys(tasks, f)
    trained = {"scene": {"macro_f": 91.0}, "event": {"macro_f": 62.5}}
    results["training"] = {task: trained[task] for task in tasks} | {"clips": 9}
    score_tables.print_results(results, rich.console.Console(file=(out := io.StringIO()), width=140))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.getvalue().splitlines()]
    scores = " / ".join({"scene": "91.00", "event": "62.50"}[task] for task in tasks)
    assert [row[:2] for row in rows if "training" in "".join(row)] == [["macro F, training clips", scores]]
    del results["training"]  # an earlier version
    score_tables.print_results(results, rich.console.Console(file=(out := io.StringIO()), width=140))
    assert "training" not in out.getvalue()


def test_printed_lists():
    pytest.importorskip("sed_scores_eval")
    scores = event_list_scores.score_event_lists({"x": events((0, 2, "[red]car"))}, {"x": events((0.1, 2.1, "[red]car"))})
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in print_to_text(scores).splitlines()]
    assert ["micro F, %", "80.00", "100.00"] in rows
    assert ["[red]car", "80.00", "100.00", "1", "1"] in rows


def test_the_table_says_what_the_best_thresholds_were_chosen_on():
    pytest.importorskip("sed_scores_eval")
    scores = event_list_scores.score_event_lists({"x": events((0, 2, "car"))}, {"x": events((0, 2, "car"))})
    note = "best: at thresholds chosen on these very recordings"
    assert note not in print_to_text(scores)
    scores["segment"]["best"] = {"micro_f": 100.0, "threshold": 0.4, "macro_f": 100.0}
    assert note in " ".join(print_to_text(scores).split())
