"""Prediction of recordings with a trained network, against evaluation and against calls of the model."""

import dataclasses
import os

import numpy as np
import pytest
import soundfile

import mfl_jax
from mfl_jax.data import mel_spectrogram
from mfl_jax.errors import InputError
from mfl_jax.inference import postprocessing
from mfl_jax.inference.audio_source import AudioSource
from mfl_jax.inference.prediction import UnreadableRecording
from mfl_jax.scoring import clip_scores
from mfl_jax.training import setup
from mfl_jax.training.checkpoints import Checkpoints
from support import small
from support.frame_network import MEL, assert_same_prediction, noise, predict_all

pytestmark = pytest.mark.lightly_optimised


@pytest.fixture(scope="module")
def evaluation(trained_run, dataset):
    """The recordings of the evaluation split, as audio files."""
    root = trained_run[1] / "recordings"
    return [AudioSource(recording.path, root / recording.path) for recording in dataset.recordings("evaluation")]


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.9, 0.98])
def test_clips_have_the_scores_of_evaluation(model, dataset, evaluation, overlap):
    clips = dataset.read("evaluation")
    expected = clip_scores.compute_recording_probabilities(model, clips, np.arange(len(clips)))
    scenes = {}
    for number, _, scene, _ in clip_scores.compute_clip_probabilities(model, clips, np.arange(len(clips))):
        scenes.setdefault(str(clips.recording[number]), []).append((clips.clip_start_s[number], scene))
    results = predict_all(model, evaluation, overlap=overlap, keep_clips=True)
    assert set(results) == set(expected) and len(results) == 4
    for name, result in results.items():
        np.testing.assert_allclose(result.clip_scores, expected[name][0], rtol=0, atol=1e-6)
        starts, scene_scores = zip(*sorted(scenes[name], key=lambda part: part[0]), strict=True)
        np.testing.assert_allclose(result.window_start_s[result.clips], starts, atol=1e-9)
        np.testing.assert_allclose(result.window_scenes[result.clips], scene_scores, rtol=0, atol=1e-6)
        difference = np.abs(result.frame_scores - result.clip_scores).max()
        assert difference <= 1e-7 if overlap == 0 else difference > 1e-6


def test_recording_up_to_a_clip_long_has_the_scores_of_a_call(model, record):
    for samples in (1, 1000, 7999, 8000):
        (result,) = predict_all(model, [record(f"{samples}.wav", wave := noise(samples))], overlap=0).values()
        scene, event = model(mel_spectrogram.compute_log_mel(wave, MEL))
        np.testing.assert_allclose(result.frame_scores, event, rtol=0, atol=1e-6)
        np.testing.assert_allclose(result.scene, scene, rtol=0, atol=1e-6)


def test_recordings_predicted_together_do_not_mix(model, record, evaluation, tmp_path):
    """Not even with one that fails after some of its windows were predicted."""
    late = noise(200_000)
    late[-1] = np.nan
    sources = [record("a.wav", noise(30_000, 1)), record("late.wav", late), record("b.wav", noise(100_000, 2)), *evaluation]
    together = predict_all(model, sources)
    assert isinstance(together["late.wav"], UnreadableRecording)
    for source in sources:
        if source.name != "late.wav":
            alone, result = predict_all(model, [source])[source.name], together[source.name]
            np.testing.assert_allclose(result.frame_scores, alone.frame_scores, rtol=0, atol=1e-6)
            np.testing.assert_allclose(result.window_scenes, alone.window_scenes, rtol=0, atol=1e-6)


@pytest.mark.parametrize("samples", [1, 8000, 30_000])
def test_silence_gives_finite_scores(model, record, samples):
    (result,) = predict_all(model, [record("a.wav", np.zeros(samples, np.float32))]).values()
    assert np.isfinite(result.frame_scores).all() and np.isfinite(result.window_scenes).all()
    assert result.scene.sum() == pytest.approx(1, abs=1e-5) and 0 <= result.frame_scores.min() <= result.frame_scores.max() <= 1


def test_predict_takes_a_file(model, evaluation, tmp_path):
    source = evaluation[0]
    alone = predict_all(model, [AudioSource(source.file.name, source.file)])[source.file.name]
    assert_same_prediction(model.predict(source.file), alone)
    assert_same_prediction(model.predict(str(source.file), overlap=0.5), alone)
    assert len(model.predict(source.file, overlap=0).window_start_s) < len(alone.window_start_s)
    low = model.predict(source.file, rules={label: postprocessing.Rule(threshold=1e-6) for label in model.events})
    assert sorted(event.label for event in low.detected) == ["high", "low"]
    assert all((event.onset_s, event.offset_s) == (0, alone.duration_s) for event in low.detected)
    with pytest.raises(InputError, match=r"missing\.wav: no such recording"):
        model.predict(tmp_path / "missing.wav")
    with pytest.raises(InputError, match=r": a folder; python -m mfl_jax\.predict takes folders$"):
        model.predict(tmp_path)
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(InputError, match=r"pipe\.wav: not a regular file$"):
        model.predict(tmp_path / "pipe.wav")
    with pytest.raises(InputError, match="the rules name the event 'bagpipe'; the model knows high, low"):
        model.predict(source.file, rules={"bagpipe": postprocessing.Rule()})
    with pytest.raises(InputError, match=r"leave out sample_rate_hz; a file states its rate$"):
        model.predict(source.file, 8000)


def test_predict_takes_samples(model, evaluation):
    samples, rate = soundfile.read(evaluation[0].file, dtype="int16")
    prediction = model.predict(samples, rate)
    assert prediction.recording == "array"
    expected = model.predict(evaluation[0].file)
    assert_same_prediction(dataclasses.replace(prediction, recording=expected.recording), expected)
    with pytest.raises(InputError, match=r"^array: the sampling rate is missing"):
        model.predict(samples)
    with pytest.raises(InputError, match=r"^array: sample 1 \(0.000 s\) is not finite; repair it$"):
        model.predict([0.0, np.nan], rate)


@pytest.mark.parametrize("task", ["scene", "event"])
def test_network_of_one_task_predicts_only_that_task(trained_run, dataset, evaluation, tmp_path, task):
    config = small.small_config(trained_run[1], tasks=(task,))
    state = setup.initial_state(config, dataset)[1]
    with Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        checkpoints.save(state, {**setup.checkpoint_metadata(config, dataset), "epoch": 0})
    model = mfl_jax.load(tmp_path)
    for result in predict_all(model, evaluation[:2], keep_clips=True).values():
        if task == "scene":
            assert result.scenes == ("busy", "calm") and result.scene_label in result.scenes
            assert result.events == () and result.detected == () and result.frame_scores.shape == (130, 0)
        else:
            assert result.events == ("high", "low") and result.frame_scores.shape == (130, 2)
            assert np.isfinite(result.frame_scores).all() and result.frame_scores.any()
            assert result.scenes == () and result.scene_label is None and result.scene.shape == (0,)
            assert result.window_scenes.shape == (len(result.window_start_s), 0)
