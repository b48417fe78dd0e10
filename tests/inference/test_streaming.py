"""Prediction of recordings of any length, with a network whose scores are known."""

import gc
import itertools
import tracemalloc

import numpy as np
import pytest
import soundfile

from mfl_jax.data import mel_spectrogram
from mfl_jax.errors import InputError
from mfl_jax.inference import postprocessing, spill_buffer, streaming
from mfl_jax.inference.audio_source import AudioSource
from support import small
from support.frame_network import CLIP_FRAMES, MEL, assert_same_prediction, loudness, network, noise, predict_all

pytestmark = pytest.mark.lightly_optimised

LENGTHS = (1, 159, 160, 161, 7999, 8000, 8001, 8160, 11_999, 12_000, 12_001, 20_800, 100_003)
OVERLAPS = (0.0, 0.1, 0.25, 0.3, 0.5, 0.6, 0.75, 0.9, 0.98, 0.999)


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_overlap_does_not_change_the_scores_of_a_network_that_sees_single_frames(record, overlap):
    waves = {f"{samples}.wav": noise(samples, samples) for samples in LENGTHS}
    results = predict_all(network(), [record(name, wave) for name, wave in waves.items()], overlap=overlap, keep_clips=True)
    for name, wave in waves.items():
        result, expected = results[name], loudness(mel_spectrogram.compute_log_mel(wave, MEL))
        assert result.duration_s == len(wave) / small.RATE and result.frame_scores.dtype == np.float32
        assert result.frame_scores.shape == (-(-len(wave) // MEL.hop_samples), 2)
        np.testing.assert_allclose(result.frame_scores, expected, rtol=0, atol=1e-6)
        if result.clip_scores is not None:
            np.testing.assert_allclose(result.clip_scores, expected, rtol=0, atol=1e-6)
        assert (result.clip_scores is None) == (CLIP_FRAMES % streaming.window_stride(CLIP_FRAMES, overlap) != 0)


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_windows_cover_the_recording(record, overlap):
    stride_s = streaming.window_stride(CLIP_FRAMES, overlap) * MEL.hop_s
    for result in predict_all(network(), [record(f"{n}.wav", noise(n)) for n in LENGTHS], overlap=overlap).values():
        start, end = result.window_start_s, result.window_end_s
        np.testing.assert_allclose(np.diff(start) / stride_s, np.round(np.diff(start) / stride_s), atol=1e-9)
        assert start[0] == 0 and end.max() == result.duration_s
        assert (start < end).all() and (start[1:] <= end[:-1] + 1e-9).all()
        assert len(start) == len(end) == len(result.window_scenes)


def test_scene_is_the_mean_over_windows_weighted_by_length(record):
    # Two clips and a fifth of one: silence, then a tone.
    t = np.arange(17_600) / small.RATE
    wave = 0.5 * np.sin(2 * np.pi * 500 * t) * (t >= 1.0)
    (result,) = predict_all(network(), [record("a.wav", wave)], overlap=0).values()
    np.testing.assert_allclose(result.window_scenes[:, 0], [0, 1, 1], atol=0.021)  # the tone starts half a frame early
    expected = (50 * result.window_scenes[0] + 50 * result.window_scenes[1] + 10 * result.window_scenes[2]) / 110
    np.testing.assert_allclose(result.scene, expected, atol=1e-6)
    assert result.scene_label == "loud" and result.scene.dtype == np.float32
    np.testing.assert_array_equal(result.clips, [0, 1, 2])


def test_overlapping_windows_fade_into_one_another(record):
    """A network whose score is the number of its window shows the weights of the windows."""
    numbers = itertools.count()

    def score_by_number(batch):
        scores = [np.full((CLIP_FRAMES, 2), next(numbers) if is_window else 0, np.float32) for is_window in batch["clip_mask"]]
        return None, np.stack(scores)

    sources = [record("a.wav", noise(8 * 4000))]
    (result,) = predict_all(network(score_by_number, scenes=()), sources, overlap=0.5).values()
    scores = result.frame_scores[:, 0]
    # First half a window without overlap; then the weights of two windows rise and fall linearly.
    np.testing.assert_array_equal(scores[:25], 0)
    ramp = np.arange(1, 26) / (np.arange(1, 26) + np.arange(25, 0, -1))
    for window in range(6):
        np.testing.assert_allclose(scores[25 * (window + 1) : 25 * (window + 2)], window + ramp, atol=1e-6)
    assert np.diff(scores).max() < 2 / 25


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5, 0.9])
def test_event_across_window_borders_is_detected_once(record, overlap):
    t = np.arange(5 * small.RATE) / small.RATE
    wave = 0.5 * np.sin(2 * np.pi * 500 * t) * ((t >= 0.4) & (t < 3.7)) + 0.5 * np.sin(2 * np.pi * 2000 * t) * (t >= 4.5)
    (result,) = predict_all(network(), [record("a.wav", wave)], overlap=overlap).values()
    assert [event.label for event in result.detected] == ["low", "high"]
    bounds = [(event.onset_s, event.offset_s) for event in result.detected]
    np.testing.assert_allclose(bounds, [(0.4, 3.7), (4.5, 5.0)], atol=0.021)
    assert bounds[1][1] == 5.0 and all(event.confidence > 0.5 for event in result.detected)


def test_each_event_has_its_own_rule(record):
    t = np.arange(2 * small.RATE) / small.RATE
    wave = 0.5 * (np.sin(2 * np.pi * 500 * t) + np.sin(2 * np.pi * 2000 * t)) * ((t >= 0.5) & (t < 0.7))
    rules = {"low": postprocessing.Rule(min_duration_s=0.5)}
    (result,) = predict_all(network(), [record("a.wav", wave)], rules=rules).values()
    assert [event.label for event in result.detected] == ["high"]


@pytest.mark.parametrize("samples", [1, 160, 8000, 30_000])
def test_silence_has_no_events(record, samples):
    (result,) = predict_all(network(), [record("a.wav", np.zeros(samples, np.float32))]).values()
    assert result.frame_scores.max() < 1e-6 and result.detected == () and result.scene_label == "quiet"


@pytest.mark.parametrize("rate", [44_100, 11_025, 96_000])
def test_other_rates_and_channels_keep_their_length(record, rate):
    t = np.arange(round(2.345 * rate)) / rate
    tone = 0.5 * np.sin(2 * np.pi * 500 * t) * (t >= 1)
    (result,) = predict_all(network(), [record("a.wav", np.stack([tone, tone], axis=1), rate)]).values()
    assert result.duration_s == pytest.approx(len(t) / rate, abs=1 / small.RATE)
    assert len(result.frame_scores) == -(-round(result.duration_s * small.RATE) // MEL.hop_samples)
    (event,) = result.detected
    assert event.label == "low" and abs(event.onset_s - 1) < 0.021 and event.offset_s == pytest.approx(result.duration_s)


def test_recordings_predicted_together_do_not_mix(record):
    lengths = [1, 90_000, 400, 8000, 8001, 33_333, 250_000, 160, 12_345, 4000, 4001, 70_001, 5]
    sources = [record(f"{number}.wav", noise(samples, number)) for number, samples in enumerate(lengths)]
    for overlap, keep_clips in itertools.product((0, 0.5), (False, True)):
        together = predict_all(network(), sources, overlap=overlap, keep_clips=keep_clips)
        for source in sources:
            alone = predict_all(network(), [source], overlap=overlap, keep_clips=keep_clips)[source.name]
            assert_same_prediction(together[source.name], alone, atol=1e-6)


def test_no_recordings_give_no_results():
    assert list(streaming.predict_recordings(network(), [], rules={})) == []


@pytest.mark.parametrize("overlap", [-0.1, 1.0, 1.5, float("nan"), float("inf")])
def test_invalid_overlap_is_refused(record, overlap):
    with pytest.raises(InputError, match="overlap must be at least 0 and below 1"):
        list(streaming.predict_recordings(network(), [record("a.wav", noise(100))], rules={}, overlap=overlap))


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5, 0.75])
def test_progress_adds_up_to_the_length(record, overlap):
    for samples in (1, 7999, 8000, 8001, 12_000, 20_000, 23_200):
        seconds = []
        predict_all(network(), [record("a.wav", noise(samples))], overlap=overlap, on_progress=seconds.append)
        assert sum(seconds) == pytest.approx(samples / small.RATE, abs=MEL.hop_s)


def measure_peak_bytes(source):
    """Predicts a recording; returns the most memory that Python and NumPy held at a time, and the result."""
    gc.collect()
    tracemalloc.start()
    try:
        (result,) = predict_all(network(), [source], keep_clips=True).values()
        return tracemalloc.get_traced_memory()[1], result
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_recording(tmp_path, monkeypatch):
    monkeypatch.setattr(spill_buffer, "MAX_MEMORY_BYTES", 0)  # scores of more than a few minutes go to a file
    peaks = []
    for minutes in (1, 2, 20):  # the first one imports modules
        file = tmp_path / f"{minutes}.wav"
        with soundfile.SoundFile(file, "w", small.RATE, 1) as out:
            for minute in range(minutes):
                out.write(noise(60 * small.RATE, minute))
        peak, result = measure_peak_bytes(AudioSource(file.name, file))
        assert result.duration_s == 60 * minutes and len(result.frame_scores) == 3000 * minutes
        assert isinstance(result.frame_scores, np.memmap)
        peaks.append(peak)
    # 18 more minutes are 35 MB of samples, 7 MB of spectrogram and 432 kB of scores of each kind. A few numbers per window stay.
    assert peaks[2] - peaks[1] < 3e6 and peaks[2] < 12e6, peaks
