"""Reading recordings of any format, rate and channel count, and errors in recordings."""

import csv

import numpy as np
import pytest
import scipy.io.wavfile
import soundfile

from mfl_jax.data import audio_reader, mel_spectrogram
from mfl_jax.data.mel_spectrogram import MelConfig
from mfl_jax.errors import InputError

RATE = 44_100


def sine(seconds, rate, pitch=440.0):
    return 0.5 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)


def read(path, rate=RATE):
    """Returns the whole recording; checks that every block is mono float32."""
    blocks = list(audio_reader.stream_mono(path, rate))
    assert all(block.dtype == np.float32 and block.ndim == 1 for block in blocks)
    return np.concatenate(blocks)


@pytest.mark.parametrize(
    ("name", "subtype", "error"),
    [
        ("a.wav", "PCM_U8", 1 / 127),
        ("a.wav", "PCM_16", 1 / 32_767),
        ("a.wav", "PCM_24", 2e-7),
        ("a.wav", "PCM_32", 1e-7),
        ("a.wav", "FLOAT", 1e-7),
        ("a.wav", "DOUBLE", 1e-7),
        ("a.flac", "PCM_16", 1 / 32_767),
        ("a.flac", "PCM_24", 2e-7),
        ("a.aiff", "PCM_16", 1 / 32_767),
        ("a.ogg", "VORBIS", 0.02),
        ("a.mp3", "MPEG_LAYER_III", 0.02),
    ],
)
def test_every_format_returns_the_written_waveform(tmp_path, name, subtype, error):
    wave = sine(0.5, RATE)
    soundfile.write(tmp_path / name, wave, RATE, subtype=subtype)
    got = read(tmp_path / name)
    assert got.shape == wave.shape
    np.testing.assert_allclose(got, wave, atol=error, rtol=0)


def test_the_suffix_may_differ_from_the_format(tmp_path):
    soundfile.write(tmp_path / "a.flac", sine(0.1, RATE), RATE)
    (tmp_path / "a.flac").rename(tmp_path / "a.WAV")
    assert len(read(tmp_path / "a.WAV")) == RATE // 10


@pytest.mark.parametrize("channels", [2, 3, 6])
def test_channels_are_averaged(tmp_path, channels):
    wave = np.random.default_rng(0).uniform(-1, 1, (1000, channels)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
    np.testing.assert_allclose(read(tmp_path / "a.wav"), wave.astype(np.float64).mean(1), atol=1e-6)


def test_opposite_channels_cancel(tmp_path):
    soundfile.write(tmp_path / "a.wav", sine(0.1, RATE)[:, None] * [1, -1], RATE, subtype="FLOAT")
    assert (read(tmp_path / "a.wav") == 0).all()


@pytest.mark.parametrize("rate", [8000, 22_050, 32_000, 48_000, 96_000])
@pytest.mark.parametrize("block_s", [20.0, 0.05])
def test_resampling_keeps_length_and_waveform(tmp_path, monkeypatch, rate, block_s):
    """The sine keeps its phase: the delay of the filter is compensated, in one block and in many."""
    monkeypatch.setattr(audio_reader, "BLOCK_S", block_s)
    soundfile.write(tmp_path / "a.wav", sine(1.003, rate), rate, subtype="FLOAT")
    got = read(tmp_path / "a.wav")
    assert abs(len(got) - 1.003 * RATE) <= 1
    edge = RATE // 20
    np.testing.assert_allclose(got[edge:-edge], sine(1.1, RATE)[: len(got)][edge:-edge], atol=1e-5, rtol=0)


def test_frequencies_above_the_new_nyquist_frequency_are_removed(tmp_path):
    """Without a filter, 15 kHz would alias to 1 kHz at a rate of 16 kHz."""
    soundfile.write(tmp_path / "a.wav", sine(0.5, RATE, 15_000.0), RATE, subtype="FLOAT")
    got = read(tmp_path / "a.wav", 16_000)
    assert abs(len(got) - 8000) <= 1
    assert np.abs(got[800:-800]).max() < 1e-3


def test_a_recording_of_few_samples_is_resampled_completely(tmp_path):
    for samples in (1, 2, 7):
        soundfile.write(tmp_path / "a.wav", np.full(samples, 0.5), 22_050)
        assert abs(len(read(tmp_path / "a.wav")) - 2 * samples) <= 1


@pytest.mark.parametrize("block_s", [0.0, 1 / RATE, 0.0101, 0.25, 1.0])
def test_blocks_add_up_to_the_file_and_are_bounded(tmp_path, monkeypatch, block_s):
    wave = np.random.default_rng(1).uniform(-1, 1, 2205).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
    monkeypatch.setattr(audio_reader, "BLOCK_S", block_s)
    blocks = list(audio_reader.stream_mono(tmp_path / "a.wav", RATE))
    assert max(map(len, blocks)) <= max(1, round(block_s * RATE))
    np.testing.assert_array_equal(np.concatenate(blocks), wave)


@pytest.mark.parametrize("rate", [8000, 48_000])
def test_resampled_blocks_are_bounded(tmp_path, monkeypatch, rate):
    monkeypatch.setattr(audio_reader, "BLOCK_S", 0.1)
    soundfile.write(tmp_path / "a.wav", sine(3, rate), rate, subtype="FLOAT")
    lengths = [len(block) for block in audio_reader.stream_mono(tmp_path / "a.wav", RATE)]
    # The filter may delay part of a block to the next one.
    assert max(lengths) <= 2 * 0.1 * RATE and sum(lengths) == 3 * RATE


def test_blocks_are_read_one_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(audio_reader, "BLOCK_S", 0.1)
    wave = sine(1, RATE)
    wave[RATE // 2] = np.nan
    soundfile.write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
    blocks = audio_reader.stream_mono(tmp_path / "a.wav", RATE)
    # The invalid sample is in the sixth block; the first five are still read.
    assert sum(len(next(blocks)) for _ in range(5)) == RATE // 2
    with pytest.raises(InputError):
        next(blocks)


def error_message(path):
    """Returns the error message of a recording; it must be one line."""
    with pytest.raises(InputError) as refused:
        read(path)
    message = str(refused.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message


def test_a_missing_recording_is_refused(tmp_path):
    assert "no such recording" in error_message(tmp_path / "missing.wav")
    assert "not readable (a folder)" in error_message(tmp_path)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "txt", "raw"])
def test_text_is_refused_with_any_suffix(tmp_path, suffix):
    path = tmp_path / f"notes.{suffix}"
    path.write_text("the microphone was next to the window\n")
    assert "not readable as audio" in error_message(path)


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "a.wav").touch()
    assert "not readable as audio" in error_message(tmp_path / "a.wav")


@pytest.mark.parametrize("name", ["a.wav", "a.aiff"])
@pytest.mark.parametrize("rate", [RATE, 8000])
def test_a_recording_without_samples_is_refused(tmp_path, name, rate):
    soundfile.write(tmp_path / name, np.zeros(0), rate)
    assert "the recording is empty (0 samples)" in error_message(tmp_path / name)


def test_a_truncated_header_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", sine(0.1, RATE), RATE)
    (tmp_path / "a.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:30])
    assert "not readable as audio" in error_message(tmp_path / "a.wav")


def test_damage_in_the_middle_of_a_file_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.flac", np.random.default_rng(2).uniform(-0.5, 0.5, RATE), RATE)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    content[len(content) // 3 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 3)
    (tmp_path / "a.flac").write_bytes(content)
    assert "not readable as audio" in error_message(tmp_path / "a.flac")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("block_s", [20.0, 0.1])
@pytest.mark.parametrize("rate", [RATE, 8000])
def test_a_sample_that_is_not_finite_is_refused_and_named(tmp_path, monkeypatch, value, block_s, rate):
    """It may be in one of two channels and in a later block."""
    monkeypatch.setattr(audio_reader, "BLOCK_S", block_s)
    wave = np.zeros((rate, 2), np.float32)
    wave[round(0.25 * rate) :, 1] = value
    soundfile.write(tmp_path / "a.wav", wave, rate, subtype="FLOAT")
    assert f"sample {round(0.25 * rate)} (0.250 s) is not finite" in error_message(tmp_path / "a.wav")


def test_unusual_and_damaged_files(shared_dir):
    """Each file is decoded like most decoders do, with finite samples, or refused in one line.

    libsndfile is the reference where decoders differ: MS ADPCM (384 samples fewer than ffmpeg), truncated data, and byte orders
    and widths that others refuse. For integers of more than 32 bits, which it refuses, scipy is the reference.
    """
    folder = shared_dir / "audio_formats"
    with open(folder / "INDEX.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    decoded = 0
    for row in rows:
        path, expected = folder / row["file"], row["libsndfile"] or "ERR"
        if expected.startswith("ERR") and "/int64" in (row["scipy"] or ""):
            expected = row["scipy"]
        if expected.startswith("ERR") or expected.split("/")[2] == "0":
            error_message(path)
            continue
        rate, _, samples, _ = expected.split("/")
        waveform = read(path)
        assert np.isfinite(waveform).all()
        assert abs(len(waveform) - int(samples) * RATE / int(rate)) <= 1, path
        decoded += 1
    assert decoded and decoded < len(rows)


@pytest.mark.parametrize("channels", [1, 3])
def test_integers_of_more_than_32_bits(tmp_path, monkeypatch, channels):
    """libsndfile does not support them."""
    monkeypatch.setattr(audio_reader, "BLOCK_S", 0.01)
    wave = np.random.default_rng(3).uniform(-1, 1, (1000, channels))
    scipy.io.wavfile.write(tmp_path / "a.wav", RATE, (wave * (2.0**63 - 1025)).astype(np.int64))
    with pytest.raises(soundfile.LibsndfileError):
        soundfile.info(tmp_path / "a.wav")
    np.testing.assert_allclose(read(tmp_path / "a.wav"), wave.mean(1), atol=1e-6)


@pytest.mark.parametrize("samples", [1, 2, 4])
def test_a_recording_shorter_than_one_new_sample_becomes_one(tmp_path, samples):
    soundfile.write(tmp_path / "a.wav", np.full(samples, 0.5), 192_000)
    got = read(tmp_path / "a.wav", 8000)
    assert got.shape == (1,) and 0 < got[0] <= 0.5


# Samples and signals that are probably wrong.


def read_warning(path, rate=RATE):
    """Returns the warning of a recording, which may be empty."""
    warnings = []
    list(audio_reader.stream_mono(path, rate, warnings.append))
    assert len(warnings) <= 1
    return "".join(warnings)


@pytest.mark.parametrize("value", [1e30, -3e38, 1.01e10])
@pytest.mark.parametrize("rate", [RATE, 8000])
def test_a_huge_sample_is_refused_and_named(tmp_path, monkeypatch, value, rate):
    monkeypatch.setattr(audio_reader, "BLOCK_S", 0.1)
    wave = np.zeros((rate, 2), np.float32)
    wave[round(0.25 * rate), 1] = value
    soundfile.write(tmp_path / "a.wav", wave, rate, subtype="FLOAT")
    message = error_message(tmp_path / "a.wav")
    assert f"sample {round(0.25 * rate)} (0.250 s) is {abs(np.float32(value)):g}, far beyond full scale (1)" in message


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rate", [RATE, 8000])
def test_the_log_mel_of_the_highest_samples_is_finite(tmp_path, rate):
    """All power in one band is the worst case; a high pitch passes the resampler with some overshoot."""
    highest = np.float32(audio_reader.MAX_SAMPLE)
    for pitch in (0.0, 0.45 * rate):
        wave = highest * np.sign(np.cos(2 * np.pi * pitch * np.arange(rate // 10) / rate)).astype(np.float32)
        soundfile.write(tmp_path / "a.wav", wave, rate, subtype="FLOAT")
        assert np.abs(soundfile.read(tmp_path / "a.wav")[0]).max() == highest
        for window, size in ((1764, 2048), (16_384, 16_384)):
            mel = MelConfig(window_samples=window, fft_samples=size)
            pieces = list(mel_spectrogram.stream_log_mel(audio_reader.stream_mono(tmp_path / "a.wav", RATE), mel))
            assert np.isfinite(np.concatenate(pieces)).all()


@pytest.mark.parametrize("factor", [2**7, 2**15, 2**31])
def test_floats_on_the_scale_of_integers_are_taken_as_they_are_and_named(tmp_path, monkeypatch, factor):
    monkeypatch.setattr(audio_reader, "BLOCK_S", 0.1)
    wave = np.zeros(RATE, np.float32)
    wave[RATE // 2 :] = 0.25
    wave[RATE // 3] = -1
    soundfile.write(tmp_path / "a.wav", factor * wave, RATE, subtype="FLOAT")
    assert f"its samples reach {factor:g} times full scale" in read_warning(tmp_path / "a.wav")
    np.testing.assert_array_equal(read(tmp_path / "a.wav"), factor * wave)


def test_moderate_overs_are_no_cause_for_a_warning(tmp_path):
    soundfile.write(tmp_path / "a.wav", 9.9 * 2 * sine(0.1, RATE), RATE, subtype="FLOAT")
    assert read_warning(tmp_path / "a.wav") == ""


@pytest.mark.parametrize(("subtype", "value"), [("PCM_16", 0), ("FLOAT", 0), ("PCM_U8", 0), ("FLOAT", 0.25), ("ALAW", 2.0**-12)])
@pytest.mark.parametrize("channels", [1, 2])
def test_silence_is_named(tmp_path, monkeypatch, subtype, value, channels):
    monkeypatch.setattr(audio_reader, "BLOCK_S", 0.1)
    soundfile.write(tmp_path / "a.wav", np.full((RATE, channels), float(value)), RATE, subtype=subtype)
    assert read_warning(tmp_path / "a.wav") == f"it is silent: every sample is {value:g}"
    wave = np.full((RATE, channels), float(value))
    wave[-1, -1] += 2.0**-6
    soundfile.write(tmp_path / "a.wav", wave, RATE, subtype=subtype)
    assert read_warning(tmp_path / "a.wav") == ""


@pytest.mark.parametrize(
    ("left_over", "expected"), [(0.0, "silence"), (0.002, "-60 dB"), (0.019, "-40 dB"), (0.021, None), (2.0, None)]
)
def test_channels_that_cancel_are_named(tmp_path, monkeypatch, left_over, expected):
    """The second channel is `left_over - 1` times the first, so that `left_over / 2` of the amplitude remains."""
    monkeypatch.setattr(audio_reader, "BLOCK_S", 0.1)
    wave = sine(1, RATE)
    soundfile.write(tmp_path / "a.wav", np.stack([wave, (left_over - 1) * wave], axis=1), RATE, subtype="FLOAT")
    warning = read_warning(tmp_path / "a.wav")
    assert warning == (
        f"its channels cancel when averaged ({expected} is left); invert one of them or keep only one" if expected else ""
    )


def test_one_silent_channel_or_unrelated_ones_do_not_cancel(tmp_path):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (RATE, 8))
    soundfile.write(tmp_path / "a.wav", noise, RATE)
    assert read_warning(tmp_path / "a.wav") == ""
    soundfile.write(tmp_path / "a.wav", noise[:, :2] * [1, 0], RATE)
    assert read_warning(tmp_path / "a.wav") == ""


def test_all_findings_share_one_line(tmp_path):
    wave = 1000 * sine(1, RATE)
    soundfile.write(tmp_path / "a.wav", np.stack([wave, -wave], axis=1), RATE, subtype="FLOAT")
    (tmp_path / "a.wav").write_bytes((tmp_path / "a.wav").read_bytes()[: -8 * RATE // 2])
    warning = read_warning(tmp_path / "a.wav")
    for part in ("promises 1.000 s, but only the first 0.500 s", "reach 500 times full scale", "channels cancel"):
        assert part in warning and "\n" not in warning
