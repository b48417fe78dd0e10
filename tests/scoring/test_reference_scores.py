"""Predictions against a label list: the same scores as evaluating, and which recording is which."""

import dataclasses
import json
import shutil
import types

import numpy as np
import pytest
import sklearn.metrics
import soundfile
from ml_collections import FrozenConfigDict

import mfl_jax
from mfl_jax.data import annotation, label_list, prepared_dataset
from mfl_jax.data.annotation import Recording
from mfl_jax.data.match_recordings import match_recordings
from mfl_jax.data.mel_spectrogram import MelConfig
from mfl_jax.errors import InputError
from mfl_jax.inference import streaming
from mfl_jax.inference.audio_source import AudioSource
from mfl_jax.inference.postprocessing import Rule
from mfl_jax.scoring import clip_scores, evaluate_run, reference_scores
from support import frame_network
from support.small import HEADER, small_config

pytestmark = pytest.mark.lightly_optimised


@pytest.fixture(scope="module")
def evaluated(trained_run, evaluated_run):
    """A model whose answers vary, its results.json, recordings, and their label list."""
    _, root = trained_run
    results = json.loads((evaluated_run / "results.json").read_text())
    assert all(sum(results["counts"]["event"][key]) > 0 for key in ("tp", "fp", "fn"))
    assert np.sum(results["scene"]["confusion"], axis=0).min() > 0
    files = sorted((root / "recordings" / "audio").glob("evaluation_*.wav"))
    sources = [AudioSource(file.name, file) for file in files]
    return mfl_jax.load(evaluated_run), results, sources, root / "recordings" / "meta" / "meta_evaluation.txt"


def score_predictions(evaluated, *, overlap, rules, keep_clips=True):
    """The scores, and the predictions with their references."""
    model, _, sources, labels = evaluated
    reference = reference_scores.read_reference(labels, model)
    counted = reference_scores.ReferenceScores(model, reference, rules)
    pairs = []
    matched = match_recordings([source.name for source in sources], reference, require_all=False)
    references = {name: reference[path] for name, path in matched.items()}
    for prediction in streaming.predict_recordings(model, sources, overlap=overlap, rules=rules, keep_clips=keep_clips):
        counted.add(prediction, references[prediction.recording])
        pairs.append((prediction, references[prediction.recording]))
    assert counted.scored == len(pairs) == len(sources) == 4
    return counted.scores(), pairs


def true_frames(prediction, recording):
    """Marks the frames that an event overlaps."""
    start = np.arange(len(prediction.frame_scores)) * 0.02
    active = np.zeros(prediction.frame_scores.shape, bool)
    for event in recording.events:
        active[(start < event.offset_s - 1e-9) & (start + 0.02 > event.onset_s + 1e-9), prediction.events.index(event.label)] = (
            True
        )
    return active


def assert_same_scores(got, expected):
    """Compares scores of results.json."""
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(got[key], value, rtol=0, atol=1e-9, err_msg=key)


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.8, 0.9])
def test_clips_score_as_in_evaluation_at_any_overlap(evaluated, overlap):
    """Clips are among the windows if the stride divides a clip."""
    scores, _ = score_predictions(evaluated, overlap=overlap, rules={})
    results = evaluated[1]
    assert_same_scores(scores["clips"]["scene"], results["scene"])
    assert_same_scores(scores["clips"]["event"], results["event"])
    assert np.sum(scores["clips"]["scene"]["confusion"]) == results["clips"] == 12
    assert np.sum(scores["recordings"]["scene"]["confusion"]) == 4


@pytest.mark.parametrize("overlap", [pytest.param(0.0, marks=pytest.mark.ci_only), 0.5])
def test_short_clips_have_no_scene_here_and_in_evaluation(evaluated, evaluated_run, trained_run, tmp_path, overlap):
    """The last clip of each recording has 30 of 50 frames; its frames still count for events."""
    workdir, root = shutil.copytree(evaluated_run, tmp_path / "run"), trained_run[1]
    stored = json.loads((workdir / "config.json").read_text())
    (workdir / "config.json").write_text(json.dumps({**stored, "min_clip_share": 0.61}))
    config = small_config(root, epochs=stored["epochs"], min_clip_share=0.61)
    dataset = prepared_dataset.open_dataset("annotated_audio/small", root / "data")
    results = evaluate_run.evaluate_run(config, dataset, workdir)
    model, before, sources, labels = evaluated
    assert (before["clips"], before["scene_clips"], results["clips"], results["scene_clips"]) == (12, 12, 12, 8)
    confusion = np.zeros((2, 2), int)
    clips = dataset.read("evaluation")
    for clip in clip_scores.compute_clip_probabilities(model, clips, np.flatnonzero(clips.clip_start_s < 1.5)):
        confusion[clip.labels["scene"], clip.scene.argmax()] += 1
    assert results["scene"]["confusion"] == results["counts"]["scene"]["confusion"] == confusion.tolist()
    assert results["scene"]["confusion"] != before["scene"]["confusion"]
    assert results["event"] == before["event"] and results["counts"]["event"] == before["counts"]["event"]
    strict = dataclasses.replace(model, config=FrozenConfigDict(config))
    scores, _ = score_predictions((strict, results, sources, labels), overlap=overlap, rules={})
    assert_same_scores(scores["clips"]["scene"], results["scene"])
    assert_same_scores(scores["clips"]["event"], results["event"])


def test_recordings_without_overlap_and_rules_score_as_in_evaluation(evaluated):
    model, results, _, _ = evaluated
    scores, _ = score_predictions(
        evaluated, overlap=0.0, rules=dict.fromkeys(model.events, Rule(threshold=model.config.threshold))
    )
    assert_same_scores(scores["recordings"]["event"], results["event"])


def test_recordings_are_scored_by_their_predictions(evaluated):
    """One scene per recording, events in the frames that the rules leave; against scikit-learn."""
    model = evaluated[0]
    _, pairs = score_predictions(evaluated, overlap=0.5, rules={})
    frame_scores = np.concatenate([prediction.frame_scores for prediction, _ in pairs])
    (low, middle), (high, _) = (
        np.quantile(frame_scores, [0.4, 0.7], axis=0)[:, 0],
        np.quantile(frame_scores, [0.6, 0.9], axis=0)[:, 1],
    )
    rules = {
        "high": Rule(threshold=middle, low_threshold=low, median_s=0.1),
        "low": Rule(threshold=high, max_gap_s=0.2, min_duration_s=0.1),
    }
    scores, pairs = score_predictions(evaluated, overlap=0.5, rules=rules)
    detected, active = [], []
    for prediction, recording in pairs:
        frames = np.zeros(prediction.frame_scores.shape, bool)
        for event in prediction.detected:
            last = min(round(event.offset_s / 0.02 + 0.49), len(frames))
            frames[round(event.onset_s / 0.02) : last, model.events.index(event.label)] = True
        detected.append(frames)
        active.append(true_frames(prediction, recording))
    detected, active = np.concatenate(detected), np.concatenate(active)
    assert detected.any(0).all() and not detected.all(0).any()
    event = scores["recordings"]["event"]
    for average, key in (("micro", "micro_f"), ("macro", "macro_f"), (None, "class_f")):
        expected = 100 * sklearn.metrics.f1_score(active, detected, average=average, zero_division=0)
        np.testing.assert_allclose(event[key], expected, rtol=1e-9)
    right = np.mean([prediction.scene_label == recording.scene for prediction, recording in pairs])
    assert scores["recordings"]["scene"]["micro_f"] == pytest.approx(100 * right)


@pytest.mark.parametrize(("overlap", "keep_clips"), [(0.5, False), (0.3, True)])
def test_only_recordings_are_scored_without_clips(evaluated, overlap, keep_clips):
    scores, _ = score_predictions(evaluated, overlap=overlap, rules={}, keep_clips=keep_clips)
    assert scores.keys() == {"recordings"} and scores["recordings"].keys() == {"scene", "event"}


@pytest.mark.parametrize("task", ["scene", "event"])
def test_model_of_one_task_is_scored_on_this_task(evaluated, task):
    """Predictions of such a model have no classes of the other task."""
    model, results, _, labels = evaluated
    _, pairs = score_predictions(evaluated, overlap=0.0, rules={})
    other = dataclasses.replace(model, **{"events" if task == "scene" else "scenes": ()})
    counted = reference_scores.ReferenceScores(other, reference_scores.read_reference(labels, other), {})
    for prediction, recording in pairs:
        counted.add(prediction, recording)
    scores = counted.scores()
    assert scores["clips"].keys() == scores["recordings"].keys() == {task}
    assert_same_scores(scores["clips"][task], results[task])


def test_nothing_scored_has_no_scores(evaluated):
    assert reference_scores.ReferenceScores(evaluated[0], {}, {}).scores() == {}


# The reference.


def write_list(tmp_path, *rows):
    file = tmp_path / "labels.txt"
    file.write_text(HEADER + "".join(f"{row}\n" for row in rows))
    return file


def test_unknown_labels_of_the_reference_are_named(evaluated, tmp_path, capsys):
    """By name, and only if none is known."""
    model = evaluated[0]
    rows = ["a.wav\tbusy\t0\t1\thigh", "b.wav\tbuzy\t0\t1\thihg", "b.wav\tbuzy\t1\t2\tthe bell", "b.wav\tbuzy\t3\t4\tthe bell"]
    reference = reference_scores.read_reference(write_list(tmp_path, *rows), model)
    assert (reference["a.wav"].scene, reference["b.wav"].scene) == ("busy", "buzy")
    assert [event.label for event in reference["b.wav"].events] == ["hihg", "the bell", "the bell"]
    scenes, events = (line.partition("the model does not know ")[2] for line in capsys.readouterr().err.splitlines())
    assert scenes == "the scene 'buzy' (1; did you mean 'busy'?); 1 of 2 recordings are not scored"
    assert events == "the events 'hihg' (1; did you mean 'high'?), 'the bell' (2); 3 of 4 events are not scored"
    with pytest.raises(InputError, match=r"the model knows none of its scenes and events; it knows busy, calm, high, low$"):
        reference_scores.read_reference(write_list(tmp_path, *rows[1:]), model)
    # Labels of a task that the model was not trained for are ignored.
    reference_scores.read_reference(write_list(tmp_path, rows[0], "b.wav\tbuzy\t\t\t"), dataclasses.replace(model, scenes=()))
    reference_scores.read_reference(write_list(tmp_path, "b.wav\tbusy\t0\t1\thihg"), dataclasses.replace(model, events=()))
    assert capsys.readouterr().err == ""
    with pytest.raises(InputError, match="no such event list"):
        reference_scores.read_reference(tmp_path / "missing.txt", model)


def test_list_of_events_alone_scores_the_events(evaluated, tmp_path):
    reference = reference_scores.read_reference(write_list(tmp_path, "a.wav\t\t0\t1\thigh"), evaluated[0])
    assert [event.label for event in reference["a.wav"].events] == ["high"]
    with pytest.raises(InputError, match="names no scenes, and the model knows no events"):
        reference_scores.read_reference(tmp_path / "labels.txt", dataclasses.replace(evaluated[0], events=()))


def test_known_classes_are_scored_beside_unknown_ones(tmp_path):
    """By hand: low is detected in [1, 2] and annotated in [1, 3]; the bell and the scene do not count."""
    model = frame_network.trained_model()
    soundfile.write(tmp_path / "a.wav", frame_network.tones(("low", 1.0, 2.0, 0.5)), 8000, "FLOAT")
    prediction = model.predict(tmp_path / "a.wav")
    events = (annotation.Event(1.0, 3.0, "low"), annotation.Event(0.0, 4.0, "the bell"))
    counted = reference_scores.ReferenceScores(model, {}, {})
    counts = counted.add(prediction, annotation.Recording("a.wav", "a church", events))
    ((onset, offset),) = ((event.onset_s, event.offset_s) for event in prediction.detected)
    hits = round((offset - 1.0) / 0.02)
    wrong = round((1.0 - onset) / 0.02)
    assert counts["recordings"]["event"]["tp"] == [hits, 0] and counts["recordings"]["event"]["fp"] == [wrong, 0]
    assert counts["recordings"]["event"]["fn"] == [100 - hits, 0] and "scene" not in counts["recordings"]
    again = reference_scores.ReferenceScores(model, {}, {})
    again.add_counts(json.loads(json.dumps(counts)))
    assert again.scores() == counted.scores() and again.scored == 1


def test_events_of_the_list_equal_the_labels_of_the_data_set(evaluated, trained_run):
    """Frame by frame."""
    model, _, _, labels = evaluated
    clips = prepared_dataset.open_dataset("annotated_audio/small", trained_run[1] / "data").read("evaluation")
    for path, recording in reference_scores.read_reference(labels, model).items():
        numbers = np.flatnonzero(clips.recording == path)
        batch = clips.take(numbers[np.argsort(clips.clip_start_s[numbers])])
        valid = np.arange(50) < batch["valid_frames"][:, None]
        frames = annotation.events_to_frames(
            recording.events, model.events, int(valid.sum()), hop_samples=160, sample_rate_hz=8000
        )
        np.testing.assert_array_equal(frames, batch["events"][valid])


def test_scores_survive_json(evaluated):
    scores, _ = score_predictions(evaluated, overlap=0.5, rules={})
    assert json.loads(json.dumps(scores)) == scores


# The label list of a data set.


@pytest.mark.parametrize("split", ["development", "evaluation"])
def test_data_set_keeps_its_label_lists(trained_run, split):
    root = trained_run[1]
    kept = prepared_dataset.open_dataset("annotated_audio/small", root / "data").recordings(split)
    listed = label_list.read_label_list(root / "recordings" / "meta" / f"meta_{split}.txt")
    assert [(r.path, r.scene) for r in kept] == [(r.path, r.scene) for r in listed]
    assert [[(e.onset_s, e.offset_s, e.label) for e in r.events] for r in kept] == [
        [(e.onset_s, e.offset_s, e.label) for e in r.events] for r in listed
    ]


def test_data_set_of_an_older_version_can_still_be_scored(trained_run, tmp_path):
    """Older versions kept no label lists; everything that needs only frames still works."""
    workdir, root = trained_run
    shutil.copytree(root / "data", tmp_path / "data")
    file = prepared_dataset.find_directory("annotated_audio/small", tmp_path / "data") / "metadata.json"
    about = json.loads(file.read_text())
    del about["recordings"]
    file.write_text(json.dumps(about))
    older = prepared_dataset.open_dataset("annotated_audio/small", tmp_path / "data")
    with pytest.raises(InputError) as refusal:
        older.recordings("evaluation")
    message = str(refusal.value)
    assert str(older.directory) in message and "older version" in message and "delete it" in message and "\n" not in message
    assert older.fingerprint == prepared_dataset.open_dataset("annotated_audio/small", root / "data").fingerprint
    copy = shutil.copytree(workdir, tmp_path / "run")
    config = small_config(root)
    config.data_dir = str(tmp_path / "data")
    assert evaluate_run.evaluate_run(config, older, copy)["clips"] == 12
    model = mfl_jax.load(copy)
    joined = clip_scores.compute_recording_probabilities(model, older.read("evaluation"), np.arange(12))
    assert {scores.shape for scores, _ in joined.values()} == {(130, 2)}


def test_a_recording_is_scored_for_what_is_annotated():
    """The second recording has no scene, the third no events: each would add an error."""
    model = types.SimpleNamespace(
        scenes=("a", "b"), events=("x",), mel=MelConfig(), config=types.SimpleNamespace(threshold=0.5), clip_frames=10
    )
    scores = reference_scores.ReferenceScores(model, {}, {"x": Rule(threshold=0.5)})
    prediction = types.SimpleNamespace(
        scene=np.array([0.2, 0.8]), clip_scores=None, frame_scores=np.full((10, 1), 0.9, np.float32), hop_s=0.02
    )
    event = annotation.Event(0.0, 0.2, "x")
    scores.add(prediction, Recording("1.wav", "b", (event,)))
    scores.add(prediction, Recording("2.wav", "", (event,)))
    scores.add(prediction, Recording("3.wav", "b", (), events_annotated=False))
    assert (scores.scored, scores.without_scene, scores.without_events) == (3, 1, 1)
    counts = scores.counts["recordings"]
    assert counts["scene"]["confusion"].tolist() == [[0, 0], [0, 2]]
    assert (int(counts["event"]["tp"][0]), int(counts["event"]["fp"][0])) == (20, 0)
