"""The data that pictures and pages show, against sums computed here."""

import numpy as np
import pytest
import soundfile

from mfl_jax.data import mel_spectrogram
from mfl_jax.errors import InputError
from mfl_jax.inference import display_data
from support.predictions import MEL, make_prediction, write_noise


@pytest.mark.parametrize(("frames", "columns"), [(1, 5), (5, 5), (7, 3), (1000, 7), (400, 399), (10, 1)])
@pytest.mark.parametrize("block", [1, 3, 10_000])
def test_columns_are_maxima_over_their_frames(frames, columns, block):
    values = np.random.default_rng(frames).standard_normal((frames, 2)).astype(np.float32)
    pieces = [values[start : start + block] for start in range(0, frames, block)]
    maxima = display_data.reduce_columns(pieces, frames, columns)
    count = min(frames, columns)
    frames_of_column = [[t for t in range(frames) if t * count // frames == column] for column in range(count)]
    assert sorted(t for members in frames_of_column for t in members) == list(range(frames)) and all(frames_of_column)
    np.testing.assert_array_equal(maxima, [values[members].max(0) for members in frames_of_column])


def test_extra_frames_belong_to_the_last_column():
    maxima = display_data.reduce_columns([np.float32([[1], [2], [3]]), np.zeros((0, 1), np.float32), np.float32([[9]])], 3, 3)
    assert maxima.tolist() == [[1], [2], [9]]
    assert display_data.reduce_columns([np.float32([[1]])], 3, 3).tolist() == [[1], [-np.inf], [-np.inf]]


def test_spectrogram_equals_that_of_the_model(tmp_path):
    file = write_noise(tmp_path / "a.wav")
    whole = mel_spectrogram.compute_log_mel(soundfile.read(file, dtype="float32")[0], MEL)
    np.testing.assert_allclose(display_data.read_spectrogram(make_prediction(), file, MEL, 100), whole, rtol=0, atol=1e-5)
    tenth = display_data.read_spectrogram(make_prediction(), file, MEL, 10)
    np.testing.assert_allclose(tenth, whole.reshape(10, 10, 32).max(1), rtol=0, atol=1e-5)


def test_recording_of_another_length_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"lasts 2\.00 s, but the prediction covers 3\.00 s"):
        display_data.read_spectrogram(make_prediction(3.0), write_noise(tmp_path / "a.wav"), MEL, 100)


def test_scenes_are_means_over_the_windows_of_a_column():
    prediction = make_prediction(
        2.0, window_start_s=np.array([0.0, 0.5, 1.0]), window_end_s=np.array([1.0, 1.5, 2.0]),
        window_scenes=np.float32([[1, 0], [0.5, 0.5], [0, 1]]),
    )  # fmt: skip
    # Windows 1; 1 and 2; 2 and 3; 3.
    np.testing.assert_allclose(display_data.average_scenes(prediction, 4)[:, 0], [1, 0.75, 0.25, 0])
    assert display_data.average_scenes(make_prediction(scenes=(), window_scenes=np.zeros((3, 0))), 4).shape == (4, 0)


def test_times_are_formatted_like_a_clock():
    assert [display_data.format_clock(s) for s in (0, 59.9, 60, 3599, 3600, 86_400)] == [
        "0:00",
        "0:59",
        "1:00",
        "59:59",
        "1:00:00",
        "24:00:00",
    ]
