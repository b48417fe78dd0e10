"""Tests the figures of an experiment by reading their axes."""

import numpy as np
import pytest

from mfl_jax.reporting import figure_choice, figures, summary


def choose(home):
    results = summary.summarise_experiment(home)
    return results, figure_choice.choose_figures(results, figure_choice.read_records(home))


def read_lines(ax):
    """Label -> places and values of the line."""
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in ax.get_lines()}


def means(results, system, task, name):
    """Swept value, None for the system's own -> mean."""
    rows = [row for row in results["rows"] if row["system"] == system]
    return {(row["sweep"] or {}).get("eta", row["alpha"]): row[task][name]["mean"] for row in rows}


def test_scores_against_a_swept_field(homes):
    results, chosen = choose(homes["sweep"])
    assert set(chosen) == {"sweep_eta", "focal_weights", "learning_curves", "event_scores", "reliability", "scene_confusion"}
    figure = chosen["sweep_eta"].draw()
    for ax, (task, name) in zip(figure.axes, summary.SCORES, strict=True):
        assert ax.get_xscale() == "linear"  # 0 is among the values
        lines = read_lines(ax)
        got = means(results, "proposed", task, name)
        assert lines["Proposed (multi-focal)"] == ([0, 0.5, 1], [got[0.0], got[None], got[1.0]])
        mean = means(results, "conventional_mtl", task, name)[None]
        assert lines["Conventional MTL"] == ([0, 1], [mean, mean])
        assert len(lines) == len(ax.collections) == 2  # each with a band


def test_scores_against_alpha_show_systems_without_it_as_lines(homes):
    results, chosen = choose(homes["figure2"])
    figure = chosen["figure2"].draw()
    for ax, (task, name) in zip(figure.axes, summary.SCORES, strict=True):
        assert ax.get_xscale() == "log"
        lines = read_lines(ax)
        got = means(results, "proposed", task, name)
        assert lines["Proposed (multi-focal)"] == ([0.01, 1], [got[0.01], got[1.0]])
        assert ("CNN (scenes only)" in lines) == (task == "scene")
        if task == "scene":
            assert lines["CNN (scenes only)"][1] == [means(results, "cnn_asc", task, name)[None]] * 2


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("figure2", {"CNN (scenes only)", "Conventional MTL, alpha 0.01", "Proposed (multi-focal), alpha 1"}),
        ("sweep", {"Conventional MTL", "Proposed (multi-focal)", "Proposed (multi-focal), eta 0"}),
    ],
)
def test_curves_are_named_by_their_variant(homes, name, labels):
    _, chosen = choose(homes[name])
    assert labels <= set(read_lines(chosen["learning_curves"].draw().axes[0]))


def test_a_figure_of_one_column_fits_a_phone(homes):
    """All panels are below each other, and letters of 10 points are at least 10 px high on a screen of 390 px."""
    _, chosen = choose(homes["table4"])
    for name, figure in chosen.items():
        narrow = figure.draw(columns=1)
        assert narrow.get_figwidth() == figures.PANEL_IN
        if name != "event_scores":
            assert {ax.get_subplotspec().colspan.stop for ax in narrow.axes} == {1}
    shrinks_to = min(1, 358 / (96 * figures.PANEL_IN))
    assert 10 * 96 / 72 * shrinks_to > 10


def test_legends_take_one_line_where_that_fits(homes):
    _, chosen = choose(homes["table4"])
    figure = chosen["learning_curves"].draw(columns=2)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert len(legend.get_texts()) == 4 and len({round(text.get_window_extent().y0) for text in legend.get_texts()}) <= 2
    assert box.height < 0.4 * figure.dpi and box.width <= figure.bbox.width


def test_reliability_has_a_line_per_system_beside_the_diagonal(homes):
    """The scores of the experiment are the probabilities of the logits 1 and -1."""
    results, chosen = choose(homes["table4"])
    assert "Intervals with fewer than 1,000 pairs" in chosen["reliability"].caption
    rows = {row["system"]: row for row in results["rows"]}
    intervals = rows["proposed"]["reliability"]
    assert {number for number, interval in enumerate(intervals) if interval["cells"]} == {2, 7}
    intervals[2]["cells"] = intervals[7]["cells"] = 1000
    rows["conventional_mtl"]["reliability"][2]["cells"] = 999  # too few
    (ax,) = chosen["reliability"].draw().axes
    lines = read_lines(ax)
    assert lines.pop("probability = share") == ([0, 1], [0, 1]) and len(lines) == 3  # not of the system of scenes alone
    places, shares = lines["Proposed (multi-focal)"]
    assert places == pytest.approx([1 / (1 + np.exp(1 - 1 / 256)), 1 / (1 + np.exp(-1 - 1 / 256))])
    assert shares == [intervals[number]["share_active"] for number in (2, 7)]
    assert min(lines["Conventional MTL"][0], default=1) > 0.5


def test_events_are_shown_with_their_development_recordings(homes):
    results, chosen = choose(homes["table4"])
    counts = dict(zip(results["events"], results["data"]["development"]["event_recordings"], strict=True))
    labels = [label.get_text() for label in chosen["event_scores"].draw().axes[0].get_yticklabels()]
    assert sorted(labels) == sorted(f"{event} ({count})" for event, count in counts.items())
    del results["data"]["development"]["event_recordings"]  # as earlier versions wrote it
    figure = figure_choice.choose_figures(results, figure_choice.read_records(homes["table4"]))["event_scores"]
    labels = [label.get_text() for label in figure.draw().axes[0].get_yticklabels()]
    assert sorted(labels) == sorted(results["events"]) and "brackets" not in figure.caption


def test_ticks_of_a_logarithmic_loss_are_plain_numbers():
    record = {"train": {"loss": 1.0, "scene": {"loss": 2.0, "micro_f": 1.0}}}
    last = {"train": {"loss": 1.0, "scene": {"loss": 0.06, "micro_f": 1.0}}}
    figure = figures.draw_learning_curves({"proposed": [[record, last]]})
    figure.draw_without_rendering()
    ax = figure.axes[0]
    low, high = ax.get_ylim()
    shown = [label.get_text() for label in ax.get_yticklabels(which="both") if low <= label.get_position()[1] <= high]
    assert shown == ["0.1", "0.2", "0.5", "1", "2"]
