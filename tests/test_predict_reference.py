"""The predict command with a reference: scores against labels, computed as evaluation does."""

import functools
import json
import shutil

import numpy as np
import pytest

import mfl_jax
from mfl_jax.data import label_list, prepared_dataset
from mfl_jax.errors import InputError
from mfl_jax.inference import picture, writers
from mfl_jax.training import setup
from mfl_jax.training.checkpoints import Checkpoints
from support import small
from support.predict_command import OVERVIEW, list_files, read_json, run_predict, write_noise

pytestmark = pytest.mark.lightly_optimised


@pytest.fixture
def call(tmp_path):
    """Runs the command in this process, writing to tmp_path / out; returns its status."""
    return functools.partial(run_predict, tmp_path / "out")


@pytest.fixture(scope="module")
def checkpoint(evaluated_run):
    return f"--checkpoint={evaluated_run}"


@pytest.fixture(scope="module")
def evaluated(trained_run, evaluated_run):
    """The results of evaluating the run, the label list of the split, and its recordings."""
    recordings = trained_run[1] / "recordings"
    files = sorted((recordings / "audio").glob("evaluation_*.wav"))
    return json.loads((evaluated_run / "results.json").read_text()), recordings / "meta" / "meta_evaluation.txt", files


def test_pictures_get_the_recording_and_its_labels(call, checkpoint, evaluated, tmp_path, monkeypatch):
    _, reference, files = evaluated
    drawn = []

    def draw(prediction, file, mel, target, *, reference, rules):
        assert set(rules) == set(prediction.events)
        drawn.append((prediction.recording, file, mel.sample_rate_hz, target, reference))

    monkeypatch.setattr(picture, "write_picture", draw)
    other = write_noise(tmp_path / "other.wav")
    assert call(checkpoint, "--plot", "--write=", f"--reference={reference}", files[0], other) == 0
    arguments = {name: rest for name, *rest in drawn}
    labels = {recording.path: recording.events for recording in label_list.read_label_list(reference)}
    assert arguments["evaluation_0.wav"] == [
        files[0], small.RATE, tmp_path / "out/plots/evaluation_0.png", labels["audio/evaluation_0.wav"]
    ]  # fmt: skip
    assert arguments["other.wav"] == [other, small.RATE, tmp_path / "out/plots/other.png", None]


def test_scores_equal_those_of_evaluation(call, checkpoint, evaluated, tmp_path, capsys):
    results, reference, files = evaluated
    assert call(checkpoint, "--overlap=0", "--postprocess=none", f"--reference={reference}", *files) == 0
    scores = read_json(tmp_path / "out/summary.json")["scores"]
    assert scores["recordings_scored"] == 4
    for task in ("scene", "event"):
        for key in ("micro_f", "macro_f"):
            assert scores["clips"][task][key] == pytest.approx(results[task][key], abs=0.01)
    assert scores["recordings"]["event"] == scores["clips"]["event"]
    assert scores["clips"]["event"]["error_rate"] == pytest.approx(results["event"]["error_rate"], abs=1e-4)
    printed = capsys.readouterr().out
    for task in ("scene", "event"):
        assert f"{results[task]['micro_f']:.2f}" in printed and f"{results[task]['macro_f']:.2f}" in printed


def test_clips_and_recordings_are_both_scored_by_default(call, checkpoint, evaluated, tmp_path, capsys):
    results, reference, files = evaluated
    assert call(checkpoint, f"--reference={reference}", *files) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "--mode=evaluate" in printed and "overlap 0.5" in printed
    scores = read_json(tmp_path / "out/summary.json")["scores"]
    for task in ("scene", "event"):
        assert scores["clips"][task]["micro_f"] == pytest.approx(results[task]["micro_f"], abs=0.01)
        assert f"{scores['recordings'][task]['micro_f']:.2f}" in printed
    # The same scores, computed here from the label list and the frame scores.
    model = mfl_jax.load(checkpoint.partition("=")[2])
    hits = wrong = missed = right = 0
    for recording in label_list.read_label_list(reference):
        result = model.predict(reference.parent.parent / recording.path)
        middle = (np.arange(len(result.frame_scores)) + 0.5) * result.hop_s
        for column, label in enumerate(model.events):
            active = np.zeros(len(middle), bool)
            for event in recording.events:
                # A frame is active if an event covers its middle.
                active |= (event.label == label) & (event.onset_s <= middle) & (middle < event.offset_s)
            detected = result.frame_scores[:, column] >= np.float32(0.5)
            hits += (detected & active).sum()
            wrong += (detected & ~active).sum()
            missed += (~detected & active).sum()
        right += result.scene_label == recording.scene
    # The command rounds onsets and offsets to frames differently.
    assert scores["recordings"]["event"]["micro_f"] == pytest.approx(200 * hits / (2 * hits + wrong + missed), abs=2)
    assert scores["recordings"]["scene"]["micro_f"] == pytest.approx(25 * right)


def test_overlap_without_clips_among_the_windows_scores_only_recordings(call, checkpoint, evaluated, tmp_path, capsys):
    _, reference, files = evaluated
    assert call(checkpoint, "--overlap=0.3", f"--reference={reference}", *files) == 0
    assert set(read_json(tmp_path / "out/summary.json")["scores"]) == {"recordings", "recordings_scored"}
    assert "--mode=evaluate" not in capsys.readouterr().out


def test_recordings_without_labels_are_not_scored(call, checkpoint, evaluated, tmp_path, capsys):
    _, reference, files = evaluated
    other = write_noise(tmp_path / "other.wav")
    assert call(checkpoint, f"--reference={reference}", *files) == 0
    expected = read_json(tmp_path / "out/summary.json")["scores"]
    capsys.readouterr()
    assert call(checkpoint, f"--reference={reference}", *files, other) == 0
    assert read_json(tmp_path / "out/summary.json")["scores"] == expected
    assert "1 of 5 recordings are not in" in capsys.readouterr().err
    assert call(checkpoint, f"--reference={reference}", other) == 0
    assert read_json(tmp_path / "out/summary.json")["scores"] == {"recordings_scored": 0}


def test_reference_without_events_and_nothing_detected_says_so(call, checkpoint, tmp_path, capsys):
    file, reference, rules = write_noise(tmp_path / "a.wav"), tmp_path / "labels.txt", tmp_path / "rules.json"
    reference.write_text(small.HEADER + "a.wav\tcalm\t\t\t\n")
    warning = "has no event in these recordings and none was detected; event scores are 0 of 0"
    for threshold, expected in ((1.0, True), (1e-9, False)):
        rules.write_text(json.dumps({"rules": {"*": {"threshold": threshold}}}))
        assert call(checkpoint, f"--reference={reference}", f"--postprocess={rules}", "--overlap=0.3", file) == 0
        assert (warning in capsys.readouterr().err) == expected


def test_reference_of_other_classes_is_refused_before_anything_is_written(call, checkpoint, evaluated, tmp_path):
    reference = tmp_path / "labels.txt"
    reference.write_text(small.HEADER + "audio/evaluation_0.wav\tcathedral\t0.1\t0.5\tbagpipe\n")
    with pytest.raises(InputError, match="the model knows none of its scenes and events") as error:
        call(checkpoint, f"--reference={reference}", *evaluated[2])
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("task", ["scene", "event"])
def test_model_of_one_task(call, trained_run, evaluated, tmp_path, capsys, task):
    _, reference, files = evaluated
    dataset = prepared_dataset.open_dataset("annotated_audio/small", trained_run[1] / "data")
    config = small.small_config(trained_run[1], tasks=(task,))
    with Checkpoints(tmp_path / "run/checkpoints", keep=2) as checkpoints:
        checkpoints.save(setup.initial_state(config, dataset)[1], {**setup.checkpoint_metadata(config, dataset), "epoch": 0})
    written = "--write=" + ",".join(kind for kind in writers.FORMATS if kind != "jams")
    assert call(f"--checkpoint={tmp_path / 'run'}", written, f"--reference={reference}", *files) == 0
    summary, printed = read_json(tmp_path / "out/summary.json"), capsys.readouterr().out
    for way in ("clips", "recordings"):
        assert set(summary["scores"][way]) == {task}
    assert ("scene micro F" in printed, "event micro F" in printed) == (task == "scene", task == "event")
    assert all((entry["scene"] is None) == (task == "event") for entry in summary["recordings"])
    content = read_json(tmp_path / "out/json/evaluation_0.json")
    assert ("scene" in content, "events" in content) == (task == "scene", task == "event")
    assert len(list_files(tmp_path / "out")) == 6 * 4 + len(OVERVIEW)


@pytest.mark.parametrize("flag", ["reference", "postprocess"])
def test_paths_with_brackets_are_not_markup(call, checkpoint, evaluated, tmp_path, flag):
    _, reference, files = evaluated
    folder = tmp_path / "[" / "b]"  # the path contains [/b]
    folder.mkdir(parents=True)
    shutil.copy(reference, folder / "labels.txt")
    (folder / "rules.json").write_text('{"rules": {}}')
    flags = {"reference": folder / "labels.txt"} if flag == "reference" else {"reference": reference, flag: folder / "rules.json"}
    assert call(checkpoint, *(f"--{name}={value}" for name, value in flags.items()), files[0]) == 0
