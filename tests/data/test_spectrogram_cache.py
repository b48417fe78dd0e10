"""The cache of spectrograms: what it computes, what invalidates it, and how it stops."""

import pathlib
import threading
import time

import numpy as np
import pytest
import soundfile

from mfl_jax.data import audio_reader, clip_cutting, label_list, spectrogram_cache
from mfl_jax.data.annotation import Recording
from mfl_jax.data.mel_spectrogram import MelConfig
from mfl_jax.errors import InputError
from support.small import CLIP_FRAMES, MEL, RATE, build_examples


def test_a_change_of_the_recording_or_of_the_settings_invalidates_a_spectrogram(tmp_path, decoded_files):
    folders = {"root": tmp_path, "folder": tmp_path / "cache"}
    soundfile.write(tmp_path / "a.wav", np.zeros(RATE), RATE)
    first = spectrogram_cache.cache_spectrogram("a.wav", mel=MEL, **folders)
    assert (first.frames, first.warning) == (50, "it is silent: every sample is 0")
    assert spectrogram_cache.cache_spectrogram("a.wav", mel=MEL, **folders) == first
    assert decoded_files == ["a.wav"]
    other_mel = MelConfig(**{**vars(MEL), "mel_bins": 16})
    assert spectrogram_cache.find_spectrogram("a.wav", mel=other_mel, **folders) is None
    soundfile.write(tmp_path / "a.wav", np.linspace(0, 0.5, 2 * RATE), RATE)
    assert spectrogram_cache.find_spectrogram("a.wav", mel=MEL, **folders) is None
    second = spectrogram_cache.cache_spectrogram("a.wav", mel=MEL, **folders)
    assert (second.frames, second.warning) == (100, "") and second.sha256 != first.sha256
    pathlib.Path(second.file).write_bytes(b"truncated")
    assert spectrogram_cache.find_spectrogram("a.wav", mel=MEL, **folders) is None
    (tmp_path / "a.wav").unlink()
    with pytest.raises(InputError, match=r"a\.wav: no such recording"):
        spectrogram_cache.cache_spectrogram("a.wav", mel=MEL, **folders)
    assert not list((tmp_path / "cache").glob("*/*.part"))


def test_a_recording_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", np.zeros(RATE), RATE)
    write_log_mel = spectrogram_cache.write_log_mel

    def change_afterwards(path, *rest):
        result = write_log_mel(path, *rest)
        soundfile.write(path, np.full(2 * RATE, 0.5), RATE)
        return result

    monkeypatch.setattr(spectrogram_cache, "write_log_mel", change_afterwards)
    folders = {"root": tmp_path, "folder": tmp_path / "cache"}
    with pytest.raises(InputError, match=r"a\.wav: the file changed while it was read"):
        spectrogram_cache.cache_spectrogram("a.wav", mel=MEL, **folders)
    assert spectrogram_cache.find_spectrogram("a.wav", mel=MEL, **folders) is None


def test_one_thread_and_several_compute_the_same(recordings, prepared, tmp_path):
    listed = label_list.read_label_list(recordings / "meta" / "meta_evaluation.txt")
    options = {"events": prepared.events, "mel": MEL, "clip_frames": CLIP_FRAMES, "anomalies": clip_cutting.Anomalies()}
    one, two = (build_examples(listed, recordings, tmp_path / str(jobs), jobs=jobs, **options) for jobs in (1, 2))
    assert one.keys() == two.keys() and len(one) == 12
    for key, example in one.items():
        np.testing.assert_allclose(two[key]["log_mel"], example["log_mel"], rtol=1e-5, atol=1e-5)


def test_warnings_are_printed_when_computed_and_when_found(tmp_path, capsys):
    """Found ones come from an interrupted preparation, or from workers whose output the user does not see."""
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(tmp_path / "good.wav", np.linspace(-0.5, 0.5, RATE), RATE)
    folders = {"root": tmp_path, "folder": tmp_path / "cache"}
    recordings = [Recording(name, "park", ()) for name in ("silent.wav", "good.wav")]
    assert len(list(spectrogram_cache.cache_spectrograms(recordings, mel=MEL, description="", **folders))) == 2
    line = f"warning: {tmp_path}/silent.wav: it is silent: every sample is 0"
    assert [text for text in capsys.readouterr().err.splitlines() if "warning" in text] == [line]
    assert len(spectrogram_cache.find_spectrograms(["silent.wav", "good.wav"], mel=MEL, **folders)) == 2
    assert capsys.readouterr().err.splitlines() == [line]


def test_a_stopped_recording_is_not_computed_to_its_end(tmp_path):
    soundfile.write(tmp_path / "long.wav", np.zeros(int(2.5 * audio_reader.BLOCK_S * RATE)), RATE)
    stop = threading.Event()
    frames, warning = spectrogram_cache.write_log_mel(str(tmp_path / "long.wav"), MEL, str(tmp_path / "out"), stop)
    assert frames == 2.5 * audio_reader.BLOCK_S * 50 and "silent" in warning
    stop.set()
    frames, _ = spectrogram_cache.write_log_mel(str(tmp_path / "long.wav"), MEL, str(tmp_path / "out"), stop)
    assert 0 < frames <= audio_reader.BLOCK_S * 50


def test_an_error_in_one_recording_ends_the_threads_of_the_others(tmp_path):
    soundfile.write(tmp_path / "good.wav", np.zeros(RATE), RATE)
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    listed = [Recording(path=f"{name}.wav", scene="any", events=()) for name in ("good", "bad", "good")]
    options = {"events": (), "mel": MEL, "clip_frames": CLIP_FRAMES, "anomalies": clip_cutting.Anomalies()}
    before = threading.active_count()
    with pytest.raises(InputError, match=r"bad\.wav: not readable"):
        build_examples(listed, tmp_path, tmp_path / "cache", jobs=2, **options)
    limit = time.monotonic() + 10  # the thread of the progress bar ends a moment later
    while threading.active_count() > before and time.monotonic() < limit:
        time.sleep(0.01)
    assert threading.active_count() == before
