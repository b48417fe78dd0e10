"""Intervals over recordings: against loops over the draws, scipy's bootstrap, closed forms, and metrics of the drawn clips."""

import json
import shutil

import numpy as np
import pytest
import scipy.stats

from mfl_jax import metrics
from mfl_jax.reporting import html_page, recording_bootstrap, summary, tables, write_report
from mfl_jax.training import recording_counts

RECORDINGS, SCENES, EVENTS = 6, 3, 2


def random_counts(seed, recordings=RECORDINGS):
    """Counts by recording of random answers; the last scene and the last event are in one recording alone."""
    rng = np.random.default_rng(seed)
    frames = [(rng.random((40, EVENTS)) < 0.5, rng.random((40, EVENTS)) < 0.3) for _ in range(recordings)]
    for detected, active in frames[1:]:
        detected[:, -1] = active[:, -1] = False
    event = [metrics.frame_counts(*pair) for pair in frames]
    return {
        "recording": np.array([f"r{number}" for number in range(recordings)]),
        "scene": np.array([SCENES - 1, *rng.integers(0, SCENES - 1, recordings - 1)]),
        "answers": rng.multinomial(5, [0.4, 0.4, 0.2], recordings),
        **{name: np.array([counts[name] for counts in event]) for name in event[0]},
    }


def score_by_hand(counts, drawn):
    """Scores drawn recordings one by one, with the functions that score a run."""
    confusion = np.zeros((SCENES, SCENES), int)
    for recording in drawn:
        confusion[counts["scene"][recording]] += counts["answers"][recording]
    names = ("tp", "fp", "fn", "substitutions", "deletions", "insertions", "active")
    event = metrics.frame_ratios({name: sum(counts[name][recording] for recording in drawn) for name in names})
    scene = metrics.scene_ratios({"confusion": confusion})
    return {
        **{("scene", name): scene[name] for name in ("micro_f", "macro_f")},
        **{("event", name): event[name] for name in ("micro_f", "macro_f", "error_rate")},
    }


def test_scores_of_drawn_recordings_equal_a_loop_over_the_draws():
    counts = random_counts(0)
    draws = recording_bootstrap.draw_recordings(RECORDINGS)[:200]
    got = recording_bootstrap.score_draws(counts, draws)
    expected = [score_by_hand(counts, np.repeat(np.arange(RECORDINGS), draw.astype(int))) for draw in draws]
    assert (draws[:, 0] == 0).sum() > 20  # without the only recording of a scene and of an event, whose F is then 0
    assert len(got) == 5
    for score, values in got.items():
        np.testing.assert_allclose(values, [scores[score] for scores in expected], rtol=1e-12)


def test_the_recordings_as_they_are_have_the_scores_of_the_run():
    counts = random_counts(1)
    got = recording_bootstrap.score_draws(counts, np.ones((1, RECORDINGS)))
    assert {score: values[0] for score, values in got.items()} == pytest.approx(score_by_hand(counts, range(RECORDINGS)))


def test_every_draw_has_as_many_recordings_and_is_reproducible():
    draws = recording_bootstrap.draw_recordings(7)
    assert draws.shape == (2000, 7) and set(draws.sum(1)) == {7} and len(np.unique(draws, axis=0)) > 500
    recording_bootstrap.draw_recordings.cache_clear()
    np.testing.assert_array_equal(recording_bootstrap.draw_recordings(7), draws)


def scene_counts(right, clips=10):
    """Counts of recordings of one of two scenes with this many right clips."""
    right = np.array(right)
    names = np.array([f"r{number:03}" for number in range(len(right))])
    return {"recording": names, "scene": np.zeros(len(right), int), "answers": np.stack([right, clips - right], 1)}


def test_equal_recordings_have_an_interval_of_zero_width():
    redrawn = recording_bootstrap.redraw_seeds([scene_counts([4] * 5), scene_counts([6] * 5)])
    # Micro: (40 + 60) / 2. Macro: F of the true scene is 2 * 4 / (4 + 10) and 2 * 6 / (6 + 10), of the absent scene 0.
    assert recording_bootstrap.mean_interval(redrawn, ("scene", "micro_f")) == pytest.approx([50, 50])
    assert recording_bootstrap.mean_interval(redrawn, ("scene", "macro_f")) == pytest.approx([100 * (8 / 14 + 12 / 16) / 4] * 2)


def test_the_interval_agrees_with_scipy():
    """With equally many clips in each recording, the micro F is the mean over recordings."""
    right = np.random.default_rng(0).binomial(10, 0.6, 40)
    redrawn = recording_bootstrap.redraw_seeds([scene_counts(right)])
    expected = scipy.stats.bootstrap((10.0 * right,), np.mean, method="percentile", n_resamples=20_000, rng=0)
    got = recording_bootstrap.mean_interval(redrawn, ("scene", "micro_f"))
    assert expected.confidence_interval.high - expected.confidence_interval.low > 5
    assert got == pytest.approx(list(expected.confidence_interval), abs=0.6)


def test_differences_are_paired_by_recording_and_by_seed():
    """One system is right in one clip more of every recording, so no draw changes the difference."""
    right = np.random.default_rng(0).integers(0, 9, (3, 30))
    low = recording_bootstrap.redraw_seeds([scene_counts(row) for row in right])
    high = recording_bootstrap.redraw_seeds([scene_counts(row + 1) for row in right[::-1]])
    score, wide = ("scene", "micro_f"), recording_bootstrap.mean_interval(low, ("scene", "micro_f"))
    assert wide[1] - wide[0] > 5
    assert recording_bootstrap.difference_interval((high, low), score, ([0, 1, 2], [0, 1, 2])) == pytest.approx([10, 10])
    assert recording_bootstrap.difference_interval((high, low), score, ([0, 1], [2, 1])) == pytest.approx([10, 10])
    other = recording_bootstrap.redraw_seeds([{**scene_counts(right[0]), "recording": np.array([f"x{i}" for i in range(30)])}])
    for second in (other, None):
        assert recording_bootstrap.difference_interval((high, second), score, ([0], [0])) is None


def test_recordings_that_are_not_annotated_for_a_task_are_not_drawn():
    """Others beside them change no interval of the task; a task that one recording alone is annotated for has none."""
    annotated, wider = random_counts(2), random_counts(2, RECORDINGS + 4)
    for name in annotated:
        wider[name][:RECORDINGS] = annotated[name]
    wider["scene"][RECORDINGS:] = -1
    for name in set(annotated) - {"recording", "scene"}:
        wider[name][RECORDINGS:] = 0
    wider["events_annotated"] = np.arange(RECORDINGS + 4) < RECORDINGS
    alone, beside = recording_bootstrap.redraw_seeds([annotated]), recording_bootstrap.redraw_seeds([wider])
    assert beside.recordings == alone.recordings and len(alone.scores) == 5
    for score in alone.scores:
        low, high = recording_bootstrap.mean_interval(alone, score)
        assert low < high and recording_bootstrap.mean_interval(beside, score) == [low, high]
        assert recording_bootstrap.difference_interval((alone, beside), score, ([0], [0])) == [0, 0]
    one = recording_bootstrap.redraw_seeds([{**wider, "events_annotated": np.arange(RECORDINGS + 4) == 0}])
    assert recording_bootstrap.mean_interval(one, ("event", "micro_f")) is None
    assert recording_bootstrap.mean_interval(one, ("scene", "micro_f")) is not None
    for pair in ((alone, one), (one, alone)):
        assert recording_bootstrap.difference_interval(pair, ("event", "micro_f"), ([0], [0])) is None


def test_nothing_is_drawn_without_counts_of_the_same_recordings():
    counts = scene_counts([1, 2, 3])
    for seeds in ([counts, None], [counts, scene_counts([1, 2])], [scene_counts([5])], [None]):
        assert recording_bootstrap.redraw_seeds(seeds) is None
    assert recording_bootstrap.mean_interval(None, ("scene", "micro_f")) is None


def test_an_error_rate_that_a_draw_leaves_undefined_has_no_interval():
    counts = {name: value for name, value in random_counts(0, 3).items() if name not in ("scene", "answers")}
    for name in ("tp", "fn", "active"):
        counts[name][1:] = 0
    redrawn = recording_bootstrap.redraw_seeds([counts])
    assert recording_bootstrap.mean_interval(redrawn, ("event", "error_rate")) is None
    assert recording_bootstrap.mean_interval(redrawn, ("event", "micro_f"))[0] == 0


def members_counts(home, *names):
    folders = [home / "members" / name for name in names]
    return [recording_counts.read_counts(folder, json.loads((folder / "results.json").read_text())) for folder in folders]


def test_rows_and_comparisons_of_a_report_have_intervals(homes):
    results = summary.summarise_experiment(homes["table4"])
    assert results["recordings_note"] == ""
    assert "redrawn" not in results["rows"][0] and json.dumps(results)
    draws = recording_bootstrap.draw_recordings(4)  # the small data set has four recordings to evaluate
    means = {}
    for row in results["rows"]:
        seeds = members_counts(homes["table4"], *(f"{row['system']}-seed{seed}" for seed in (0, 1)))
        scored = [recording_bootstrap.score_draws(counts, draws) for counts in seeds]
        for task, name in scored[0]:
            means[row["system"], task, name] = np.mean([scores[task, name] for scores in scored], axis=0)
            expected = np.percentile(means[row["system"], task, name], [2.5, 97.5])
            assert row[task][name]["recordings_interval"] == pytest.approx(expected.tolist())
    for entry in results["comparisons"]:
        first, second = (means[entry[side], entry["task"], entry["score"]] for side in ("first", "second"))
        assert entry["recordings_interval"] == pytest.approx(np.percentile(first - second, [2.5, 97.5]).tolist())


def test_recordings_of_all_folds_are_drawn_together(homes):
    results = summary.summarise_experiment(homes["folds"])
    parts = members_counts(homes["folds"], *(f"proposed-fold{fold}-seed0" for fold in (1, 2, 3, 4)))
    joined = recording_counts.join_recordings(parts)
    assert len(joined["recording"]) == 8 and sorted(joined["recording"]) == joined["recording"].tolist()
    scores = recording_bootstrap.score_draws(joined, recording_bootstrap.draw_recordings(8))
    for (task, name), values in scores.items():
        expected = np.percentile(values, [2.5, 97.5]).tolist()
        assert results["rows"][0][task][name]["recordings_interval"] == pytest.approx(expected)


@pytest.mark.parametrize(("name", "remedy"), [("table4", "--mode=evaluate"), ("folds", "only training again")])
def test_a_report_of_runs_without_counts_says_so(homes, tmp_path, name, remedy):
    """The other systems keep their intervals."""
    home = shutil.copytree(homes[name], tmp_path / "home")
    removed = sorted(home.glob(f"members/proposed*/{recording_counts.FILE}"))[0]
    removed.unlink()
    results = summary.summarise_experiment(home)
    for row in results["rows"]:
        assert (row["scene" if "scene" in row else "event"]["micro_f"]["recordings_interval"] is None) == (
            row["system"] == "proposed"
        )
    for entry in results["comparisons"]:
        assert (entry["recordings_interval"] is None) == ("proposed" in (entry["first"], entry["second"]))
    note = results["recordings_note"]
    assert note.startswith("There is no interval over recordings of Proposed (multi-focal). ") and remedy in note
    built = write_report.build_tables(results)
    assert f"<p>{note}</p>" in html_page.build_page(results, built, {})
    assert {row[4] == "" for row in built["intervals"] if "Proposed" in row[0] or "proposed" in row[0]} == {True}


def test_the_table_of_intervals_shows_both(homes):
    results = summary.summarise_experiment(homes["table4"])
    header, *rows = tables.build_interval_table(results)
    assert header == ["System", "Score", "Mean", "95 % over seeds", "95 % over recordings"]
    assert len(rows) == 2 + 3 + 5 + 5
    score = results["rows"][0]["scene"]["micro_f"]
    (seeds, recordings) = (f"{low:.2f} to {high:.2f}" for low, high in (score["interval"], score["recordings_interval"]))
    assert rows[0][1:] == ["Scene micro F [%]", f"{score['mean']:.2f}", seeds, recordings]
