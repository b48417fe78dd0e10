"""Recordings in memory: the same blocks as from a file, and checks that name what is wrong."""

import numpy as np
import pytest
import soundfile

from mfl_jax.data import audio_reader
from mfl_jax.errors import InputError
from mfl_jax.inference import array_source
from support.frame_network import assert_same_prediction, network, noise, predict_all


def read_blocks(stream, rate=8000):
    warnings = []
    return np.concatenate(list(stream(rate, warnings.append))), warnings


@pytest.mark.parametrize(("subtype", "dtype"), [("PCM_16", np.int16), ("PCM_32", np.int32), ("FLOAT", np.float32)])
@pytest.mark.parametrize(("channels", "rate"), [(1, 8000), (2, 8000), (3, 22_050)])
def test_samples_equal_those_of_a_file(tmp_path, subtype, dtype, channels, rate):
    """Longer than a block, so that the borders of blocks are tested too."""
    samples = 0.1 * np.random.default_rng(0).standard_normal((int(20.5 * rate), channels)).clip(-9, 9)
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype=subtype)
    array = soundfile.read(tmp_path / "a.wav", dtype=dtype)[0]
    assert array.dtype == dtype and array.ndim == (1 if channels == 1 else 2)
    actual, _ = read_blocks(array_source.check_array(array, rate).stream_mono)
    expected = np.concatenate(list(audio_reader.stream_mono(tmp_path / "a.wav", 8000)))
    np.testing.assert_array_equal(actual, expected)


def test_full_scale_of_integers():
    for array in (np.array([-(2**15), 2**14], np.int16), np.array([-(2**31), 2**30], ">i4"), [-1.0, 0.5]):
        samples, _ = read_blocks(array_source.check_array(array, 8000).stream_mono)
        assert samples.dtype == np.float32 and samples.tolist() == [-1, 0.5]


def test_prediction_of_samples_equals_that_of_a_file(record):
    wave = noise(20_000)
    by_name = predict_all(network(), [record("a.wav", wave), array_source.check_array(wave, 8000)])
    expected = by_name["a.wav"]
    actual = by_name["array"]
    object.__setattr__(actual, "recording", "a.wav")
    assert_same_prediction(actual, expected)


def test_suspicious_samples_give_a_warning():
    assert read_blocks(array_source.check_array(np.zeros(9), 8000).stream_mono)[1] == ["it is silent: every sample is 0"]
    _, (warning,) = read_blocks(array_source.check_array([0.0, 20.0], 8000).stream_mono)
    assert warning.startswith("its samples reach 20 times full scale")


@pytest.mark.parametrize(
    ("samples", "rate", "expected"),
    [
        (np.zeros(5), None, "the sampling rate is missing: predict(samples, sample_rate_hz)"),
        (np.zeros(5), 0, "the sampling rate must be a whole number of Hz >= 1, not 0"),
        (np.zeros(5), 44_100.5, "not 44100.5"),
        (np.zeros(5), float("nan"), "not nan"),
        (np.zeros(5), "8000", "not '8000'"),
        (np.zeros(5), True, "not True"),
        (np.zeros(0), 8000, "the recording is empty (shape [0])"),
        (np.zeros((5, 0)), 8000, "the recording is empty (shape [5, 0])"),
        (np.float32(1), 8000, "the shape must be [samples] or [samples, channels], not []"),
        (np.zeros((2, 5, 1)), 8000, "not [2, 5, 1]"),
        (np.zeros((2, 5)), 8000, "5 channels of 2 samples; pass [samples, channels] (transpose it)"),
        (np.zeros(5, np.uint8), 8000, "the samples have the type uint8; pass floating-point numbers"),
        (np.zeros(5, np.int64), 8000, "the samples have the type int64"),
        (np.zeros(5, bool), 8000, "the samples have the type bool"),
        (np.zeros(5, complex), 8000, "the samples have the type complex128"),
        (["a"], 8000, "the samples have the type <U1"),
    ],
)
def test_invalid_samples_give_one_line(samples, rate, expected):
    with pytest.raises(InputError) as error:
        array_source.check_array(samples, rate)
    message = str(error.value)
    assert message.startswith("array: ") and expected in message and "\n" not in message


@pytest.mark.parametrize(("value", "expected"), [(np.nan, "is not finite"), (1e300, "is not finite"), (2e10, "is 2e+10, far")])
def test_samples_out_of_range_are_refused_with_their_position(value, expected):
    samples = np.zeros(9000)
    samples[4000] = value
    with pytest.raises(InputError, match="^array: sample 4000 \\(0.500 s\\) " + expected.replace("+", "\\+")):
        read_blocks(array_source.check_array(samples, 8000).stream_mono)


def test_a_rate_may_be_any_whole_number():
    for rate in (np.int64(8000), 8000.0, np.float32(8000)):
        assert array_source.check_array([0.5], rate).rate == 8000
