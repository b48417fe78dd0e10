"""The printed tables of scores."""

import pytest

from mfl_jax.scoring import event_list_scores
from support.event_examples import events, print_to_text

pytest.importorskip("sed_scores_eval")


def test_printed_lists():
    scores = event_list_scores.score_event_lists({"x": events((0, 2, "[red]car"))}, {"x": events((0.1, 2.1, "[red]car"))})
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in print_to_text(scores).splitlines()]
    assert ["micro F, %", "80.00", "100.00"] in rows
    assert ["[red]car", "80.00", "100.00", "1", "1"] in rows


def test_the_best_thresholds_are_said_to_be_chosen_on_the_recordings():
    scores = event_list_scores.score_event_lists({"x": events((0, 2, "car"))}, {"x": events((0, 2, "car"))})
    note = "best: at thresholds chosen on these very recordings"
    assert note not in print_to_text(scores)
    scores["segment"]["best"] = {"micro_f": 100.0, "threshold": 0.4, "macro_f": 100.0}
    assert note in " ".join(print_to_text(scores).split())
