"""Scores of events in addition to those of frames, of a trained run; and the command that compares two label lists."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from mfl_jax.data.prepared_dataset import open_dataset
from mfl_jax.errors import InputError
from mfl_jax.inference import postprocessing, trained_model, writers
from mfl_jax.scoring import evaluate_run, event_list_scores
from support import ROOT
from support.small import small_config

pytestmark = pytest.mark.lightly_optimised

ALL = "frame, segment,event,psds"


@pytest.fixture
def copied_run(trained_run, tmp_path):
    """A run to write to, its data set, and the folder of its recordings."""
    run, root = trained_run
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run", open_dataset("annotated_audio/small", root / "data"), root


def evaluate(copied_run, **fields):
    run, dataset, root = copied_run
    return evaluate_run.evaluate_run(small_config(root, **fields), dataset, run)


def test_event_scores_equal_those_of_the_lists_that_predict_writes(copied_run, tmp_path):
    pytest.importorskip("sed_scores_eval")
    run, dataset, root = copied_run
    results = evaluate(copied_run, scores=ALL)
    assert json.loads((run / "results.json").read_text())["event_scores"] == results["event_scores"]
    model = trained_model.load(run)
    (tmp_path / "events").mkdir()
    for recording in dataset.recordings("evaluation"):
        prediction = model.predict(root / "recordings" / recording.path, overlap=0)
        writers.write_events_tsv(prediction, tmp_path / "events" / f"{prediction.recording}.tsv")
    expected = event_list_scores.score_event_files(root / "recordings" / "meta" / "meta_evaluation.txt", tmp_path / "events")
    for kind in ("segment", "event"):
        assert results["event_scores"][kind]["n_reference"] > 0
        for key in ("micro_f", "macro_f", "error_rate", "class_f"):
            assert results["event_scores"][kind][key] == pytest.approx(expected[kind][key]), (kind, key)
    assert 0 <= results["event_scores"]["psds1"]["psds"] <= results["event_scores"]["psds2"]["psds"] <= 1


def test_event_scores_do_not_change_the_paper_scores(copied_run):
    pytest.importorskip("sed_scores_eval")
    run, _, _ = copied_run
    before = evaluate(copied_run)
    assert "event_scores" not in before
    strict = postprocessing.rules_to_json({label: postprocessing.Rule(threshold=1.0) for label in ("high", "low")})
    (run / postprocessing.RULES_FILE).write_text(strict)
    after = evaluate(copied_run, scores="segment", postprocess="tuned")
    assert after.pop("event_scores")["segment"]["n_estimated"] == 0
    assert after == before


def test_scores_of_an_unfinished_run_are_called_so(copied_run, capsys):
    run, _, root = copied_run
    evaluate(copied_run)
    assert "unfinished" not in capsys.readouterr().err
    epochs = small_config(root).epochs
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "epochs": epochs + 2}))
    evaluate(copied_run, epochs=epochs + 2)
    assert f"trained for {epochs} of {epochs + 2} epochs; these are the scores of an unfinished run" in capsys.readouterr().err


def test_runs_that_cannot_be_scored_are_refused(copied_run, monkeypatch):
    pytest.importorskip("sed_scores_eval")
    with pytest.raises(InputError, match=r"postprocessing\.json: post-processing rules not readable"):
        evaluate(copied_run, scores="event", postprocess="tuned")
    monkeypatch.setitem(sys.modules, "sed_eval", None)
    with pytest.raises(InputError, match=r"sed_eval is missing: pip install -e '\.\[eval\]'"):
        evaluate(copied_run, scores="event")


def test_command_compares_two_label_lists(tmp_path):
    pytest.importorskip("sed_scores_eval")
    (tmp_path / "true.txt").write_text("0.0\t1.0\tcar\n2.0\t3.0\tdog\n")
    (tmp_path / "found.txt").write_text("0.1\t1.1\tcar\n2.5\t3.0\tdog\n")

    def compare(*arguments):
        command = [sys.executable, "-m", "mfl_jax.evaluate", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)

    process = compare("true.txt", "found.txt", "--out=scores.json")
    assert process.returncode == 0, process.stderr
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["event"]["micro_f"] == 50.0  # the dog's onset is half a second late
    assert scores["segment"]["micro_f"] == pytest.approx(100 * 2 * 2 / (2 + 3))
    assert "50.00" in process.stdout
    process = compare("true.txt")
    assert process.returncode == 2 and process.stderr == "error: expected two label lists, REFERENCE and ESTIMATED, not 1\n"
