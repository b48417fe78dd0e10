"""Log-mel spectrograms against librosa, at once and in blocks."""

import dataclasses
import pickle

import librosa
import numpy as np
import pytest

from mfl_jax.data import mel_spectrogram
from mfl_jax.errors import InputError

PAPER = mel_spectrogram.MelConfig()
# Even and odd windows and hops, hop = window, window = transform, band edges inside the spectrum.
CONFIGS = {
    "paper": PAPER,
    "16 kHz": mel_spectrogram.MelConfig(16_000, 640, 320, 1024, 40, 50.0, 7000.0, 1e-6),
    "22.05 kHz, odd hop": mel_spectrogram.MelConfig(22_050, 882, 441, 1024, 32, 0.0, 11_025.0),
    "odd window and hop": mel_spectrogram.MelConfig(44_100, 1001, 333, 1024, 20, 100.0, 20_000.0),
    "odd window, even hop": mel_spectrogram.MelConfig(44_100, 1025, 512, 2048, 20, 100.0, 20_000.0),
    "no overlap, no padding": mel_spectrogram.MelConfig(8000, 512, 512, 512, 16, 0.0, 4000.0),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def noise(samples, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, samples).astype(np.float32)


def librosa_mel_power(waveform, config):
    """Computes the mel power with librosa alone, in float64.

    Frame t of librosa starts at sample t * hop, with the window in the middle of `fft_samples`. Zeros before the recording move
    its centre to (t + 0.5) * hop, rounded down unless window and hop are both even.
    """
    before = config.window_samples // 2 - config.hop_samples // 2 + (config.fft_samples - config.window_samples) // 2
    padded = np.concatenate([np.zeros(before), waveform.astype(np.float64), np.zeros(2 * config.fft_samples)])
    stft = librosa.stft(
        padded, n_fft=config.fft_samples, hop_length=config.hop_samples, win_length=config.window_samples, center=False
    )
    frames = -(-len(waveform) // config.hop_samples)
    return librosa.feature.melspectrogram(
        S=np.abs(stft[:, :frames]) ** 2, sr=config.sample_rate_hz, n_fft=config.fft_samples, n_mels=config.mel_bins,
        fmin=config.low_hz, fmax=config.high_hz, htk=False, norm="slaney",
    ).T  # fmt: skip


@every_config
@pytest.mark.parametrize("hops", [12, 12.37])
def test_mel_power_matches_librosa(config, hops):
    waveform = noise(int(hops * config.hop_samples))
    log_mel = mel_spectrogram.compute_log_mel(waveform, config)
    power = librosa_mel_power(waveform, config)
    assert log_mel.dtype == np.float32 and log_mel.shape == power.shape
    np.testing.assert_allclose(np.exp(log_mel.astype(np.float64)), power + config.floor, rtol=1e-4)


@every_config
def test_a_click_is_strongest_in_the_frame_that_holds_it(config):
    """The window is centred on its frame: a click in the middle of frame 5 is loudest there and equally loud on both sides."""
    waveform = np.zeros(11 * config.hop_samples, np.float32)
    waveform[5 * config.hop_samples + config.hop_samples // 2] = 1
    power = np.exp(mel_spectrogram.compute_log_mel(waveform, config).astype(np.float64)).sum(1)
    assert power.argmax() == 5
    np.testing.assert_allclose(power[4], power[6], rtol=0.05)


@pytest.mark.parametrize("samples", [1, 440, 881, 882, 883, 1763, 1764, 1765, 44_100, 441_000, 441_001])
def test_a_partly_filled_last_frame_counts(samples):
    frames = -(-samples // 882)
    assert PAPER.frames(samples) == frames
    assert mel_spectrogram.compute_log_mel(noise(samples)).shape == (frames, 64)


def test_ten_seconds_are_five_hundred_frames():
    assert PAPER.frames(10 * 44_100) == 500 and PAPER.hop_s == 0.02
    assert mel_spectrogram.compute_log_mel(np.zeros(441_000, np.float32)).shape == (500, 64)


def split_waveform(waveform, sizes):
    start = 0
    for size in sizes:
        yield waveform[start : start + size]
        start += size
    yield waveform[start:]


@every_config
@pytest.mark.parametrize("kind", ["single samples", "hops", "odd", "with empty blocks", "a large last block"])
def test_blocks_give_the_same_frames_as_the_whole_waveform(config, kind):
    hop = config.hop_samples
    waveform = noise(9 * hop + 7, seed=1)
    sizes = {
        "single samples": [1] * (2 * config.window_samples),
        "hops": [hop] * 9,
        "odd": [1, hop - 1, hop + 1, 2, 3 * hop + 5, 17],
        "with empty blocks": [0, 5, 0, 0, 3 * hop, 0],
        "a large last block": [3],
    }[kind]
    pieces = list(mel_spectrogram.stream_log_mel(split_waveform(waveform, sizes), config))
    assert all(len(piece) for piece in pieces)
    np.testing.assert_allclose(np.concatenate(pieces), mel_spectrogram.compute_log_mel(waveform, config), rtol=1e-6, atol=1e-6)


def test_a_frame_is_returned_once_its_window_is_full():
    """Only part of a window is held back, so that memory depends on the length of a block."""
    read = 0

    def blocks():
        nonlocal read
        for _ in range(40):
            read += 1000
            yield noise(1000)

    done = 0
    for piece in mel_spectrogram.stream_log_mel(blocks(), PAPER):
        done += len(piece)
        assert done >= PAPER.frames(read) - 2
    assert done == PAPER.frames(40_000)


@every_config
def test_a_frame_does_not_depend_on_where_the_recording_is_cut(config):
    """A frame whose window is inside an excerpt has the same values as in the whole recording."""
    hop = config.hop_samples
    whole = noise(30 * hop, seed=2)
    margin = -(-config.window_samples // hop)
    expected = mel_spectrogram.compute_log_mel(whole, config)[10 + margin : 20 - margin]
    assert len(expected)
    cut = mel_spectrogram.compute_log_mel(whole[10 * hop : 20 * hop], config)
    np.testing.assert_allclose(cut[margin:-margin], expected, rtol=1e-6, atol=1e-6)
    longer = mel_spectrogram.compute_log_mel(np.concatenate([whole, noise(13 * hop, seed=3)]), config)
    np.testing.assert_allclose(longer[10 + margin : 20 - margin], expected, rtol=1e-6, atol=1e-6)


@every_config
def test_silence_is_the_logarithm_of_the_floor(config):
    np.testing.assert_allclose(
        mel_spectrogram.compute_log_mel(np.zeros(5 * config.hop_samples), config), np.log(config.floor), rtol=1e-6
    )


def test_full_scale_and_the_smallest_samples_stay_finite():
    for scale in (1.0, 1e-7, 1e-38):
        assert np.isfinite(mel_spectrogram.compute_log_mel(np.float32(scale) * np.sign(noise(5000)))).all()


@pytest.mark.parametrize("blocks", [[], [np.zeros(0, np.float32)] * 3], ids=["no block", "empty blocks"])
def test_an_empty_waveform_has_no_frames(blocks):
    assert list(mel_spectrogram.stream_log_mel(blocks, PAPER)) == []
    assert mel_spectrogram.compute_log_mel(np.zeros(0, np.float32)).shape == (0, 64)


@pytest.mark.parametrize("bin_", [4, 10, 20, 35, 50, 62])
def test_a_tone_peaks_in_the_band_around_it(bin_):
    centres = librosa.mel_frequencies(n_mels=64 + 2, fmin=0, fmax=22_050)[1:-1]
    tone = 0.5 * np.sin(2 * np.pi * centres[bin_] * np.arange(44_100) / 44_100)
    inside = mel_spectrogram.compute_log_mel(tone)[2:-2]
    assert (inside.argmax(1) == bin_).all()
    # All frames of a stationary tone are equal.
    np.testing.assert_allclose(inside[:, bin_], inside[0, bin_], atol=1e-3)


def test_doubling_the_amplitude_quadruples_the_power():
    waveform = noise(20_000)
    np.testing.assert_allclose(
        mel_spectrogram.compute_log_mel(2 * waveform) - mel_spectrogram.compute_log_mel(waveform), np.log(4), atol=1e-4
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sample_rate_hz": 0}, "sample_rate_hz, hop_samples and mel_bins must be > 0"),
        ({"hop_samples": 0}, "sample_rate_hz, hop_samples and mel_bins must be > 0"),
        ({"hop_samples": -882}, "sample_rate_hz, hop_samples and mel_bins must be > 0"),
        ({"mel_bins": 0}, "sample_rate_hz, hop_samples and mel_bins must be > 0"),
        ({"window_samples": 0}, "window_samples must be > 0 and <= fft_samples"),
        ({"window_samples": 2049}, "window_samples must be > 0 and <= fft_samples"),
        ({"hop_samples": 1765}, "hop_samples must be <= window_samples"),
        ({"low_hz": -1.0}, "0 <= low_hz < high_hz"),
        ({"low_hz": 8000.0, "high_hz": 8000.0}, "0 <= low_hz < high_hz"),
        ({"high_hz": 22_051.0}, "high_hz <= sample_rate_hz / 2"),
        ({"sample_rate_hz": 16_000}, "high_hz <= sample_rate_hz / 2"),
        ({"low_hz": float("nan")}, "0 <= low_hz < high_hz"),
        ({"floor": 0.0}, "floor must be > 0"),
        ({"floor": -1e-10}, "floor must be > 0"),
        ({"floor": float("nan")}, "floor must be > 0"),
        ({"floor": float("inf")}, "floor must be > 0 and finite"),
        ({"floor": 1e-60}, "floor must be > 0 and finite"),
    ],
)
def test_invalid_settings_are_refused(fields, message):
    with pytest.raises(InputError, match=message) as refused:
        mel_spectrogram.MelConfig(**fields)
    (name, value), *_ = reversed(fields.items())
    assert f"{name}={value!r}" in str(refused.value) and "\n" not in str(refused.value)


def test_settings_at_their_limits_are_accepted():
    mel_spectrogram.MelConfig(hop_samples=1764, window_samples=1764, fft_samples=1764, low_hz=0.0, high_hz=22_050.0, mel_bins=1)


def test_settings_survive_pickling_and_conversion_to_a_dict():
    config = CONFIGS["22.05 kHz, odd hop"]
    assert pickle.loads(pickle.dumps(config)) == config == mel_spectrogram.MelConfig(**dataclasses.asdict(config))
    assert config != PAPER and config.hop_s == 0.02


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30, -3e38])
def test_a_waveform_without_a_finite_spectrogram_is_refused(value):
    waveform = noise(44_100)
    waveform[22_050] = value  # frame 25 holds it, and the windows of its neighbours do
    with pytest.raises(InputError, match=r"waveform: not finite or far beyond full scale \(1\) near 0\.4[68] s"):
        mel_spectrogram.compute_log_mel(waveform)
