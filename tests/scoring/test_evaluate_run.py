"""Scores of events beside those of frames, of a trained run; and two label lists from the command line."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from mfl_jax.data.prepared_dataset import open_dataset
from mfl_jax.errors import InputError
from mfl_jax.inference import postprocessing, trained_model, writers
from mfl_jax.scoring import evaluate_run, event_scores
from support import ROOT
from support.small import small_config

pytestmark = pytest.mark.lightly_optimised

ALL = "frame, segment,event,psds"


@pytest.fixture
def copied_run(trained_run, tmp_path):
    """A run to write into, its data set, and the folder of its recordings."""
    run, root = trained_run
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run", open_dataset("annotated_audio/small", root / "data"), root


def evaluated(copied_run, **fields):
    run, dataset, root = copied_run
    return evaluate_run.evaluate_run(small_config(root, **fields), dataset, run)


def test_scores_of_events_are_those_of_the_lists_that_predicting_writes(copied_run, tmp_path):
    pytest.importorskip("sed_scores_eval")
    run, dataset, root = copied_run
    results = evaluated(copied_run, scores=ALL)
    assert json.loads((run / "results.json").read_text())["event_scores"] == results["event_scores"]
    model = trained_model.load(run)
    (tmp_path / "events").mkdir()
    for recording in dataset.recordings("evaluation"):
        heard = model.predict(root / "recordings" / recording.path, overlap=0)
        writers.write_events_tsv(heard, tmp_path / "events" / f"{heard.recording}.tsv")
    expected = event_scores.evaluate_lists(root / "recordings" / "meta" / "meta_evaluation.txt", tmp_path / "events")
    for kind in ("segment", "event"):
        assert results["event_scores"][kind]["n_reference"] > 0
        for key in ("micro_f", "macro_f", "error_rate", "class_f"):
            assert results["event_scores"][kind][key] == pytest.approx(expected[kind][key]), (kind, key)
    assert 0 <= results["event_scores"]["psds1"]["psds"] <= results["event_scores"]["psds2"]["psds"] <= 1


def test_the_scores_of_the_paper_stay_what_they_are(copied_run):
    pytest.importorskip("sed_scores_eval")
    run, _, _ = copied_run
    before = evaluated(copied_run)
    assert "event_scores" not in before
    strict = postprocessing.rules_to_json({label: postprocessing.Rule(threshold=1.0) for label in ("high", "low")})
    (run / postprocessing.RULES_FILE).write_text(strict)
    after = evaluated(copied_run, scores="segment", postprocess="tuned")
    assert after.pop("event_scores")["segment"]["n_estimated"] == 0
    assert after == before


def test_what_can_not_be_scored_is_refused(copied_run, monkeypatch):
    run, dataset, root = copied_run
    config = small_config(root, tasks=("scene",))
    with pytest.raises(InputError, match="asks for segment, and this system detects no events"):
        evaluate_run.score_events(config, dataset, run, ["segment"])
    pytest.importorskip("sed_scores_eval")
    with pytest.raises(InputError, match=r"postprocessing\.json: post-processing rules not readable"):
        evaluated(copied_run, scores="event", postprocess="tuned")
    monkeypatch.setitem(sys.modules, "sed_eval", None)
    with pytest.raises(InputError, match=r"sed_eval is missing: pip install -e '\.\[eval\]'"):
        evaluated(copied_run, scores="event")


def test_two_label_lists_from_the_command_line(tmp_path):
    pytest.importorskip("sed_scores_eval")
    (tmp_path / "true.txt").write_text("0.0\t1.0\tcar\n2.0\t3.0\tdog\n")
    (tmp_path / "found.txt").write_text("0.1\t1.1\tcar\n2.5\t3.0\tdog\n")

    def compare(*arguments):
        command = [sys.executable, "-m", "mfl_jax.evaluate", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)

    done = compare("true.txt", "found.txt", "--out=scores.json")
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["event"]["micro_f"] == 50.0  # the dog's onset is half a second late
    assert scores["segment"]["micro_f"] == pytest.approx(100 * 2 * 2 / (2 + 3))
    assert "50.00" in done.stdout
    done = compare("true.txt")
    assert done.returncode == 2 and done.stderr == "error: two label lists are compared, REFERENCE and ESTIMATED, not 1\n"
