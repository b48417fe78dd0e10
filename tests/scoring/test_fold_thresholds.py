"""Thresholds from the folds of one experiment, written, read, and used for a run of another."""

import json

import numpy as np
import pytest
import scipy.special

from mfl_jax.errors import InputError
from mfl_jax.inference import postprocessing
from mfl_jax.scoring import fold_thresholds
from mfl_jax.training import histogram_file, recording_counts, score_histograms
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
    results = {
        "system": system, "dataset": "d", "fingerprint": "f", "fold": fold, "events": EVENTS, "event": {"macro_f": 1.0},
        "event_probabilities": score_histograms.summarise_scores(build_histogram(frames)),
        "counts": recording_counts.sum_recordings(counts),
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results))


CONFIG = {"folds": True, "alphas": (), "sweep": {"eta": ()}}


@pytest.fixture
def home(tmp_path):
    for fold in (1, 2, 3, 4):
        for seed in (0, 1):
            write_run(tmp_path / "folds" / "members" / f"improved-fold{fold}-seed{seed}", FRAMES, fold=fold)
    (file,) = fold_thresholds.write_thresholds(tmp_path / "folds", CONFIG)
    assert file == tmp_path / "folds" / "thresholds" / "improved.json"
    return tmp_path / "folds"


def read(home, **changes):
    return fold_thresholds.read_thresholds(
        **{"source": str(home), "system": "improved", "events": EVENTS, "fingerprint": "f"} | changes
    )


def test_thresholds_are_rules_for_prediction(home):
    rules = postprocessing.read_rules(home / "thresholds" / "improved.json", EVENTS)
    # 400 recordings have each event. The highest shrinkage of equal score, 32, draws 2 towards the shared threshold of -1.
    logits = [float(scipy.special.logit(rules[label].threshold)) for label in EVENTS]
    assert logits == pytest.approx([-1.0, 2.0 - 3.0 * 32 / 432], abs=0.01)
    content = json.loads((home / "thresholds" / "improved.json").read_text())
    assert content["cross_fitted"]["by_event"]["macro_f"] == 100 and "8 runs" in content["chosen_on"]
    assert read(home).by_event.tolist() == [rules[label].threshold for label in EVENTS]


def test_a_run_is_scored_at_them_and_predicts_with_them(home, tmp_path):
    run, thresholds = tmp_path / "final", read(home)
    write_run(run, [*FRAMES, (0, 0, -0.5)])
    for _ in range(2):
        fold_thresholds.apply_thresholds(run, thresholds)
    scores = json.loads((run / "results.json").read_text())["event_probabilities"]["fold_thresholds"]
    assert scores["by_event"]["class_f"] == pytest.approx([80, 100]) and scores["chosen_by"] == str(thresholds.file)
    # One threshold for all, -1: 2 hits and an alarm; then 2 hits and an alarm.
    assert scores["shared"]["macro_f"] == pytest.approx(80)
    assert (run / postprocessing.RULES_FILE).read_text() == thresholds.file.read_text()


@pytest.mark.parametrize("text", [postprocessing.rules_to_json({"bird": postprocessing.Rule(threshold=0.3)}, step=7), "no JSON"])
def test_rules_from_elsewhere_stay(home, tmp_path, capsys, text):
    run = tmp_path / "final"
    write_run(run, FRAMES)
    (run / postprocessing.RULES_FILE).write_text(text)
    fold_thresholds.apply_thresholds(run, read(home))
    assert (run / postprocessing.RULES_FILE).read_text() == text and "kept" in capsys.readouterr().err


def test_missing_or_other_thresholds_are_refused(home):
    with pytest.raises(InputError, match=r"no thresholds of proposed \(those there: improved\)"):
        read(home, system="proposed")
    with pytest.raises(InputError, match="no threshold for 'dog'"):
        read(home, events=[*EVENTS, "dog"])
    with pytest.raises(InputError, match="chosen on other data"):
        read(home, fingerprint="g")


@pytest.mark.parametrize("shared", ["x", None, 5.0, 0.0, float("nan")])
def test_a_damaged_file_is_refused(home, shared):
    file = home / "thresholds" / "improved.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "shared_threshold": shared}))
    with pytest.raises(InputError, match=r"improved\.json: shared_threshold is .*; must be above 0 and below 1"):
        read(home)
    del content["fingerprint"]
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match="chosen on other data"):
        read(home)


def test_a_histogram_of_another_evaluation_gives_no_thresholds(home, capsys):
    folder = home / "members" / "improved-fold3-seed1"
    histogram_file.write_histogram(folder, build_histogram(FRAMES[1:]), EVENTS)
    assert fold_thresholds.write_thresholds(home, CONFIG) == []
    assert "improved gets no thresholds" in capsys.readouterr().err


@pytest.mark.parametrize("change", [{"folds": False}, {"alphas": (0.1, 1.0)}, {"sweep": {"eta": (0.5,)}}])
def test_variants_of_a_system_are_not_mixed(home, change):
    assert fold_thresholds.write_thresholds(home, CONFIG | change) == []
