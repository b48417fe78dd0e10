"""Predictions against a label list: the very scores of evaluating, and which recording is which."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import sklearn.metrics

import mfl_jax
from mfl_jax.data import annotation, label_list, prepared_dataset
from mfl_jax.data.match_recordings import match_recordings
from mfl_jax.errors import InputError
from mfl_jax.inference import streaming
from mfl_jax.inference.audio_source import AudioSource
from mfl_jax.inference.postprocessing import Rule
from mfl_jax.scoring import clip_scores, evaluate_run, reference_scores
from mfl_jax.training import loop
from support.small import HEADER, small_config


@pytest.fixture(scope="module")
def evaluated(trained_run, tmp_path_factory):
    """A model that was trained until it answers now this, now that; its results.json; recordings; label list."""
    workdir, root = trained_run
    copy = shutil.copytree(workdir, tmp_path_factory.mktemp("agreement") / "run")
    config = small_config(root, epochs=15)
    dataset = prepared_dataset.open_dataset(config.dataset, root / "data")
    loop.train(config, dataset, copy)
    results = evaluate_run.evaluate_run(config, dataset, copy)
    assert all(sum(results["counts"]["event"][key]) > 0 for key in ("tp", "fp", "fn"))
    assert np.sum(results["scene"]["confusion"], axis=0).min() > 0
    files = sorted((root / "recordings" / "audio").glob("evaluation_*.wav"))
    sources = [AudioSource(file.name, file) for file in files]
    return mfl_jax.load(copy), results, sources, root / "recordings" / "meta" / "meta_evaluation.txt"


def agreed(evaluated, *, overlap, rules, keep_clips=True):
    """The scores, and the predictions with their references."""
    model, _, sources, labels = evaluated
    reference = reference_scores.read_reference(labels, model)
    counted = reference_scores.ReferenceScores(model, reference, rules)
    pairs = []
    matched = match_recordings([source.name for source in sources], reference, require_all=False)
    found = {name: reference[path] for name, path in matched.items()}
    for prediction in streaming.predict_recordings(model, sources, overlap=overlap, rules=rules, keep_clips=keep_clips):
        counted.add(prediction, found[prediction.recording])
        pairs.append((prediction, found[prediction.recording]))
    assert counted.scored == len(pairs) == len(sources) == 4
    return counted.scores(), pairs


def true_frames(prediction, recording):
    """An event is active in the frames that it overlaps."""
    start = np.arange(len(prediction.frame_scores)) * 0.02
    active = np.zeros(prediction.frame_scores.shape, bool)
    for event in recording.events:
        active[(start < event.offset_s - 1e-9) & (start + 0.02 > event.onset_s + 1e-9), prediction.events.index(event.label)] = (
            True
        )
    return active


def assert_same(got, expected, places=1e-9):
    """Figures of results.json, to the last digit."""
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(got[key], value, rtol=0, atol=places, err_msg=key)


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.8, 0.9])
def test_clips_score_as_in_evaluating_at_any_overlap(evaluated, overlap):
    """They are among the windows wherever the stride divides a clip."""
    scores, _ = agreed(evaluated, overlap=overlap, rules={})
    results = evaluated[1]
    assert_same(scores["clips"]["scene"], results["scene"])
    assert_same(scores["clips"]["event"], results["event"])
    assert np.sum(scores["clips"]["scene"]["confusion"]) == results["clips"] == 12
    assert np.sum(scores["recordings"]["scene"]["confusion"]) == 4


def test_without_overlap_and_rules_recordings_score_their_frames_as_in_evaluating(evaluated):
    model, results, _, _ = evaluated
    scores, _ = agreed(evaluated, overlap=0.0, rules=dict.fromkeys(model.events, Rule(threshold=model.config.threshold)))
    assert_same(scores["recordings"]["event"], results["event"])


def test_recordings_are_scored_by_what_was_predicted(evaluated):
    """Scenes a recording, events in the frames that the rules leave; scikit-learn counts."""
    model = evaluated[0]
    _, pairs = agreed(evaluated, overlap=0.5, rules={})
    heard = np.concatenate([prediction.frame_scores for prediction, _ in pairs])
    (low, middle), (high, _) = np.quantile(heard, [0.4, 0.7], axis=0)[:, 0], np.quantile(heard, [0.6, 0.9], axis=0)[:, 1]
    rules = {
        "high": Rule(threshold=middle, low_threshold=low, median_s=0.1),
        "low": Rule(threshold=high, max_gap_s=0.2, min_duration_s=0.1),
    }
    scores, pairs = agreed(evaluated, overlap=0.5, rules=rules)
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
def test_without_clips_there_are_the_scores_of_recordings_alone(evaluated, overlap, keep_clips):
    scores, _ = agreed(evaluated, overlap=overlap, rules={}, keep_clips=keep_clips)
    assert scores.keys() == {"recordings"} and scores["recordings"].keys() == {"scene", "event"}


@pytest.mark.parametrize("task", ["scene", "event"])
def test_a_model_of_one_task_is_scored_on_it_alone(evaluated, task):
    """A prediction of such a model has no classes, and no columns, of the other task."""
    model, results, _, labels = evaluated
    _, pairs = agreed(evaluated, overlap=0.0, rules={})
    other = dataclasses.replace(model, **{"events" if task == "scene" else "scenes": ()})
    counted = reference_scores.ReferenceScores(other, reference_scores.read_reference(labels, other), {})
    for prediction, recording in pairs:
        counted.add(prediction, recording)
    scores = counted.scores()
    assert scores["clips"].keys() == scores["recordings"].keys() == {task}
    assert_same(scores["clips"][task], results[task])


def test_nothing_scored_has_no_scores(evaluated):
    assert reference_scores.ReferenceScores(evaluated[0], {}, {}).scores() == {}


# The reference.


def listed(tmp_path, *rows):
    file = tmp_path / "labels.txt"
    file.write_text(HEADER + "".join(f"{row}\n" for row in rows))
    return file


def test_a_reference_with_unknown_labels_is_refused(evaluated, tmp_path):
    model = evaluated[0]
    good = "a.wav\tbusy\t0\t1\thigh"
    assert reference_scores.read_reference(listed(tmp_path, good), model)["a.wav"].scene == "busy"
    scene, event = "b.wav\tbuzy\t0\t1\thigh", "b.wav\tbusy\t0\t1\thihg"
    for row, unknown, near in ((scene, "buzy", "busy"), (event, "hihg", "high")):
        with pytest.raises(InputError) as refusal:
            reference_scores.read_reference(listed(tmp_path, good, row), model)
        said = str(refusal.value)
        assert "row 3" in said and unknown in said and near in said and "\n" not in said
    # What a model was not trained for is no matter of its.
    assert "b.wav" in reference_scores.read_reference(listed(tmp_path, scene), dataclasses.replace(model, scenes=()))
    assert "b.wav" in reference_scores.read_reference(listed(tmp_path, event), dataclasses.replace(model, events=()))
    with pytest.raises(InputError, match="no such label list"):
        reference_scores.read_reference(tmp_path / "missing.txt", model)


def found(names, *paths):
    return match_recordings(names, paths, require_all=False)


def test_a_name_means_the_path_that_ends_with_it():
    paths = ("tut/audio/a.wav", "tut/audio/b.wav", "other/c.wav")
    assert found(["a.wav", "audio/b.wav", "c.wav"], *paths) == {
        "a.wav": paths[0], "audio/b.wav": paths[1], "c.wav": paths[2],
    }  # fmt: skip


def test_a_name_means_the_path_that_it_ends_with():
    assert found(["home/me/audio/a.wav"], "audio/a.wav", "audio/b.wav") == {"home/me/audio/a.wav": "audio/a.wav"}
    assert found(["audio/a.wav"], "a.wav") == {"audio/a.wav": "a.wav"}


def test_the_suffix_of_a_file_does_not_count():
    assert found(["a.flac", "b.WAV", "c"], "x/a.wav", "x/b.wav", "x/c.wav") == {
        "a.flac": "x/a.wav",
        "b.WAV": "x/b.wav",
        "c": "x/c.wav",
    }
    assert found(["a.b.wav"], "x/a.b.flac", "x/a.wav") == {"a.b.wav": "x/a.b.flac"}


def test_names_match_folder_by_folder_and_whole():
    """No name that merely ends with the same letters, and no folder that does."""
    assert found(["a.wav"], "x/aa.wav", "x/a/b.wav") == {}
    assert found(["audio/a.wav"], "myaudio/a.wav") == {}
    assert found(["one/a.wav"], "two/a.wav") == {}
    assert found(["A.wav"], "x/a.wav") == {}


def test_misses_are_left_out():
    assert found(["a.wav", "z.wav", "stdin"], "x/a.wav") == {"a.wav": "x/a.wav"}
    assert found([], "x/a.wav") == {} and found(["a.wav"]) == {}


def test_a_name_that_means_two_paths_is_refused():
    for name, paths in (
        ("a.wav", ("one/a.wav", "two/a.wav")),
        ("a.wav", ("one/a.wav", "two/a.flac")),
        ("audio/a.wav", ("one/audio/a.wav", "two/audio/a.wav", "two/a.wav")),
    ):
        with pytest.raises(InputError) as refusal:
            found([name], *paths)
        said = str(refusal.value)
        assert name in said and paths[0] in said and paths[1] in said and "folder" in said and "\n" not in said
    assert found(["one/a.wav", "two/a.wav"], "one/a.wav", "two/a.wav") == {"one/a.wav": "one/a.wav", "two/a.wav": "two/a.wav"}


def test_a_path_word_for_word_wins_over_others():
    assert found(["a.wav"], "a.wav", "one/a.wav") == {"a.wav": "a.wav"}
    assert found(["one/a.wav"], "a.wav", "one/a.wav", "one/a.flac") == {"one/a.wav": "one/a.wav"}


def test_the_events_of_the_list_are_the_labels_of_the_data_set(evaluated, trained_run):
    """What a reference is compared with, frame by frame, is what the data set was prepared with."""
    model, _, _, labels = evaluated
    clips = prepared_dataset.open_dataset("annotated_audio/small", trained_run[1] / "data").read("evaluation")
    for path, recording in reference_scores.read_reference(labels, model).items():
        numbers = np.flatnonzero(clips.recording == path)
        taken = clips.take(numbers[np.argsort(clips.clip_start_s[numbers])])
        valid = np.arange(50) < taken["valid_frames"][:, None]
        frames = annotation.events_to_frames(
            recording.events, model.events, int(valid.sum()), hop_samples=160, sample_rate_hz=8000
        )
        np.testing.assert_array_equal(frames, taken["events"][valid])


def test_scores_are_what_json_holds(evaluated):
    scores, _ = agreed(evaluated, overlap=0.5, rules={})
    assert json.loads(json.dumps(scores)) == scores


# The label list that a data set keeps.


@pytest.mark.parametrize("split", ["development", "evaluation"])
def test_a_data_set_keeps_its_label_lists(trained_run, split):
    root = trained_run[1]
    kept = prepared_dataset.open_dataset("annotated_audio/small", root / "data").recordings(split)
    listed = label_list.read_label_list(root / "recordings" / "meta" / f"meta_{split}.txt")
    assert [(r.path, r.scene) for r in kept] == [(r.path, r.scene) for r in listed]
    assert [[(e.onset_s, e.offset_s, e.label) for e in r.events] for r in kept] == [
        [(e.onset_s, e.offset_s, e.label) for e in r.events] for r in listed
    ]


def test_a_data_set_of_an_older_version_does_all_else(trained_run, tmp_path):
    """It kept no label lists; all that frames are enough for goes on."""
    workdir, root = trained_run
    shutil.copytree(root / "data", tmp_path / "data")
    file = prepared_dataset.find_directory("annotated_audio/small", tmp_path / "data") / "metadata.json"
    about = json.loads(file.read_text())
    del about["recordings"]
    file.write_text(json.dumps(about))
    older = prepared_dataset.open_dataset("annotated_audio/small", tmp_path / "data")
    with pytest.raises(InputError) as refusal:
        older.recordings("evaluation")
    said = str(refusal.value)
    assert str(older.directory) in said and "older version" in said and "delete it" in said and "\n" not in said
    assert older.fingerprint == prepared_dataset.open_dataset("annotated_audio/small", root / "data").fingerprint
    copy = shutil.copytree(workdir, tmp_path / "run")
    config = small_config(root)
    config.data_dir = str(tmp_path / "data")
    assert evaluate_run.evaluate_run(config, older, copy)["clips"] == 12
    model = mfl_jax.load(copy)
    joined = clip_scores.recording_probabilities(model, older.read("evaluation"), np.arange(12))
    assert {scores.shape for scores, _ in joined.values()} == {(130, 2)}
