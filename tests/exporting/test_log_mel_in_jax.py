"""The traceable log-mel spectrogram against SciPy's transform and the spectrogram of the data sets."""

import jax
import numpy as np
import pytest
import scipy.signal

from mfl_jax.data import mel_spectrogram
from mfl_jax.data.mel_spectrogram import MelConfig
from mfl_jax.exporting import log_mel_in_jax
from support.random_model import sounds
from support.small import RATE

pytestmark = pytest.mark.lightly_optimised


@pytest.mark.parametrize(("window", "fft", "hop"), [(320, 512, 160), (321, 512, 100), (7, 8, 3), (2, 16, 2), (64, 64, 64)])
def test_fourier_bases_are_a_windowed_transform(window, fft, hop):
    mel = MelConfig(8000, window, hop, fft, 2, 0, 4000)
    x = np.random.default_rng(0).normal(size=window)
    n = np.arange(1, window // 2 + 1)
    cosines, sines = log_mel_in_jax.build_fourier_bases(mel)
    power = np.square((x[-n] + x[n]) @ cosines) + np.square((x[-n] - x[n]) @ sines)
    expected = np.abs(np.fft.rfft(x * scipy.signal.get_window("hann", window), fft)) ** 2
    np.testing.assert_allclose(power, expected, rtol=1e-4, atol=1e-6 * expected.max())


@pytest.mark.parametrize(("window", "hop"), [(320, 160), (321, 160), (320, 161), (161, 161), (512, 20)])
def test_spectrogram_equals_the_one_of_the_data_sets(window, hop):
    mel = MelConfig(RATE, window, hop, 512, 16, 100.0, 3900.0)
    clips = sounds()[0][:, : hop * 20]
    got = np.asarray(jax.jit(lambda waveform: log_mel_in_jax.compute_log_mel(waveform, mel))(clips))
    expected = np.stack([mel_spectrogram.compute_log_mel(clip, mel) for clip in clips])
    assert got.shape == expected.shape == (len(clips), 20, 16)
    # Compared as powers: 110 dB below a tone, both transforms show only rounding errors.
    got, expected = np.exp(np.float64(got)), np.exp(np.float64(expected))
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-11 * expected.max())


def test_windows_are_cut_without_a_gather():
    """TPUs gather single samples, one after another."""
    text = jax.jit(lambda waveform: log_mel_in_jax.compute_log_mel(waveform, MelConfig())).lower(np.zeros((1, 8820), np.float32))
    assert "gather" not in text.as_text() and "concatenate" in text.as_text()
