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
