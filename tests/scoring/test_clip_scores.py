"""Probabilities of clips: in the order asked for, equal to those of the model, and joined to recordings."""

import dataclasses

import numpy as np
import pytest

import mfl_jax
from mfl_jax.data import annotation, label_list, prepared_dataset
from mfl_jax.errors import InputError
from mfl_jax.scoring import clip_scores

pytestmark = pytest.mark.lightly_optimised


@pytest.fixture(scope="module")
def opened(trained_run):
    workdir, root = trained_run
    return mfl_jax.load(workdir), prepared_dataset.open_dataset("annotated_audio/small", root / "data")


@pytest.mark.parametrize("order", ["all", "backwards", "some", "none"])
def test_clips_keep_their_order_and_the_probabilities_of_the_model(opened, order):
    """24 clips are a full batch of 16 and half a batch."""
    model, dataset = opened
    clips = dataset.read("development")
    numbers = {"all": np.arange(24), "backwards": np.arange(24)[::-1], "some": np.array([17, 2, 5, 2]), "none": np.arange(0)}[
        order
    ]
    yielded = list(clip_scores.compute_clip_probabilities(model, clips, numbers))
    assert [number for number, *_ in yielded] == numbers.tolist()
    if order != "none":
        assert {len(labels["events"]) for _, labels, _, _ in yielded} == {50, 30}  # a full clip, and the remainder of 2.6 s
    for number, labels, scene, event in yielded:
        clip = clips.take(np.array([number]))
        valid = int(clip["valid_frames"][0])
        assert labels["valid_frames"] == valid and labels["scene"] == clip["scene"][0]
        np.testing.assert_array_equal(labels["events"], clip["events"][0, :valid])
        expected = model(clip["log_mel"][0, :valid])
        np.testing.assert_allclose(scene, expected[0], atol=1e-6)
        np.testing.assert_allclose(event, expected[1], atol=1e-6)


@pytest.mark.parametrize("split", ["development", "evaluation"])
def test_recordings_join_their_clips_in_order(opened, trained_run, split):
    model, dataset = opened
    clips = dataset.read(split)
    # The order of the clips must not matter.
    joined = clip_scores.compute_recording_probabilities(model, clips, np.random.default_rng(0).permutation(len(clips)))
    labels = label_list.read_label_list(trained_run[1] / "recordings" / "meta" / f"meta_{split}.txt")
    assert sorted(joined) == sorted(recording.path for recording in labels)
    for recording in labels:
        scores, active = joined[recording.path]
        assert scores.shape == active.shape == (130, 2) and scores.dtype == np.float32 and active.dtype == bool
        expected = annotation.events_to_frames(recording.events, model.events, 130, hop_samples=160, sample_rate_hz=8000)
        np.testing.assert_array_equal(active, expected)
        numbers = np.flatnonzero(clips.recording == recording.path)
        for number in numbers:
            first = round(clips.clip_start_s[number] / 0.02)
            valid = int(clips.take(np.array([number]))["valid_frames"][0])
            expected = model(clips.take(np.array([number]))["log_mel"][0, :valid])[1]
            np.testing.assert_allclose(scores[first : first + valid], expected, atol=1e-6)


def test_data_set_with_other_classes_or_spectrograms_is_refused(opened):
    model, dataset = opened
    clip_scores.check_classes(model, dataset)
    clip_scores.check_classes(model, dataclasses.replace(dataset, fingerprint="another"))
    others = {
        "scenes": {"scenes": ("calm", "busy")},
        "events": {"events": (*dataset.events, "third")},
        "spectrograms": {"mel": dataclasses.replace(dataset.mel, floor=1e-9)},
        "clips": {"clip_frames": 49},
    }
    for named, change in others.items():
        with pytest.raises(InputError) as refusal:
            clip_scores.check_classes(model, dataclasses.replace(dataset, **change))
        message = str(refusal.value)
        assert named in message and str(model.directory) in message and str(dataset.directory) in message
        assert "\n" not in message


def test_classes_of_an_untrained_task_are_ignored(opened):
    model, dataset = opened
    clip_scores.check_classes(dataclasses.replace(model, scenes=()), dataclasses.replace(dataset, scenes=("a",)))
    clip_scores.check_classes(dataclasses.replace(model, events=()), dataclasses.replace(dataset, events=("a",)))


def test_recordings_without_annotated_events_are_left_out(opened):
    model, dataset = opened
    clips, numbers = dataset.read("evaluation"), np.arange(12)
    paths = np.unique(clips.recording)
    clips.event_mask = clips.recording != paths[1]
    joined = clip_scores.compute_recording_probabilities(model, clips, numbers)
    assert sorted(joined) == [path for path in paths if path != paths[1]]
    clips.event_mask = np.zeros(12, bool)
    with pytest.raises(InputError, match="no recording of these clips has its events annotated"):
        clip_scores.compute_recording_probabilities(model, clips, numbers)
