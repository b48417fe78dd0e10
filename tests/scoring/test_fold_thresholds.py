"""Thresholds from the folds of one experiment, written, read, and used for a run of another."""

import json

import numpy as np
import pytest
import scipy.special

from mfl_jax.errors import InputError
from mfl_jax.inference import postprocessing
from mfl_jax.scoring import fold_thresholds
from mfl_jax.training import histogram_file, recording_counts
from mfl_jax.training.score_histograms import BINS, BINS_PER_UNIT

EVENTS = ["bird", "car"]


def build_histogram(frames):
    """Histogram of two events from (event, label, logit) triples."""
    histogram = np.zeros((2, 2, BINS), np.int64)
    for event, label, logit in frames:
        histogram[event, label, round(logit * BINS_PER_UNIT) + BINS // 2] += 1
    return histogram


# Best at -1 for the first event and at 2 for the second.
FRAMES = [(0, 0, -2.0), (0, 1, -1.0), (0, 1, 0.0), (1, 0, 1.0), (1, 1, 2.0), (1, 1, 3.0)]


def write_run(folder, frames, *, fold=0, system="improved", recordings=100):
    """Writes a finished run with `recordings` recordings that have both events."""
    folder.mkdir(parents=True)
    counts = {
        "recording": np.array([f"{n}.wav" for n in range(recordings)]),
        **{name: np.ones((recordings, 2), np.int32) for name in ("tp", "fp", "fn")},
        **{name: np.ones(recordings, np.int32) for name in ("substitutions", "deletions", "insertions", "active")},
    }
    recording_counts.write_counts(folder, counts)
    histogram_file.write_histogram(folder, build_histogram(frames), EVENTS)
    results = {"system": system, "fold": fold, "events": EVENTS, "event": {"macro_f": 1.0}, "event_probabilities": {}}
    results["counts"] = recording_counts.sum_recordings(counts)
    (folder / "results.json").write_text(json.dumps(results))


@pytest.fixture
def source(tmp_path):
    for fold in (1, 2, 3, 4):
        for seed in (0, 1):
            write_run(tmp_path / "folds" / "members" / f"improved-fold{fold}-seed{seed}", FRAMES, fold=fold)
    (file,) = fold_thresholds.write_thresholds(tmp_path / "folds")
    assert file == fold_thresholds.find_file(str(tmp_path / "folds"), "improved")
    return file


def test_thresholds_are_rules_for_prediction(source):
    rules = postprocessing.read_rules(source, EVENTS)
    # 400 recordings have each event. The highest shrinkage of equal score, 32, draws 2 towards the shared threshold of -1.
    logits = [float(scipy.special.logit(rules[label].threshold)) for label in EVENTS]
    assert logits == pytest.approx([-1.0, 2.0 - 3.0 * 32 / 432], abs=0.01)
    content = json.loads(source.read_text())
    assert content["cross_fitted"]["by_event"]["macro_f"] == 100 and "8 runs" in content["chosen_on"]


def test_a_run_is_scored_at_them_and_predicts_with_them(source, tmp_path):
    run = tmp_path / "final"
    write_run(run, [*FRAMES, (0, 0, -0.5)])
    fold_thresholds.apply_thresholds(run, source)
    scores = json.loads((run / "results.json").read_text())["event_probabilities"]["fold_thresholds"]
    assert scores["by_event"]["class_f"] == pytest.approx([80, 100]) and scores["chosen_by"] == str(source)
    # One threshold for all, -1: 2 hits and an alarm; then 2 hits and an alarm.
    assert scores["shared"]["macro_f"] == pytest.approx(80)
    assert postprocessing.read_rules(run / postprocessing.RULES_FILE, EVENTS) == postprocessing.read_rules(source, EVENTS)


def test_tuned_rules_stay(source, tmp_path, capsys):
    run = tmp_path / "final"
    write_run(run, FRAMES)
    tuned = postprocessing.rules_to_json({"bird": postprocessing.Rule(threshold=0.3)}, step=7)
    (run / postprocessing.RULES_FILE).write_text(tuned)
    fold_thresholds.apply_thresholds(run, source)
    assert (run / postprocessing.RULES_FILE).read_text() == tuned and "stay" in capsys.readouterr().err


def test_missing_thresholds_are_refused(source, tmp_path):
    with pytest.raises(InputError, match="no .*proposed.json; first run an experiment with --config.folds=True"):
        fold_thresholds.find_file(str(tmp_path / "folds"), "proposed")
    with pytest.raises(InputError, match="no threshold for 'dog'"):
        fold_thresholds.score_thresholds(source, np.zeros((3, 2, BINS), np.int64), [*EVENTS, "dog"])


def test_systems_without_histograms_get_no_file(tmp_path):
    for fold in (1, 2, 3, 4):
        folder = tmp_path / "members" / f"old-fold{fold}"
        write_run(folder, FRAMES, fold=fold)
        (folder / histogram_file.FILE).unlink()
    assert fold_thresholds.write_thresholds(tmp_path) == []
