"""Clips of detected events: which are chosen, and what is cut out."""

import csv

import numpy as np
import pytest
import soundfile

from mfl_jax.inference import event_clips
from mfl_jax.inference.finished_recordings import FinishedRecording
from mfl_jax.inference.prediction import DetectedEvent

RATE = 8000


def finished(recording, *events):
    """A recording with events (label, onset, confidence) of half a second."""
    detected = tuple(DetectedEvent(onset, onset + 0.5, label, sure) for label, onset, sure in events)
    return FinishedRecording("", {"recording": recording}, detected, None)


def choose(recordings, count):
    clips = event_clips.choose_clips(recordings, count)
    return [(clip.event.label, clip.choice, clip.rank, clip.recording, clip.event.confidence) for clip in clips]


def test_highest_and_lowest_confidences_of_each_class():
    recordings = [
        finished("a", ("car", 0, 0.7), ("car", 1, 0.9), ("bird", 2, 0.6), ("car", 3, 0.5)),
        finished("b", ("car", 0, 0.8), ("car", 1, 0.55), ("car", 2, 0.95)),
    ]
    assert choose(recordings, 2) == [
        ("bird", "highest", 1, "a", 0.6),
        ("car", "highest", 1, "b", 0.95), ("car", "highest", 2, "a", 0.9),
        ("car", "lowest", 1, "a", 0.5), ("car", "lowest", 2, "b", 0.55),
    ]  # fmt: skip
    # With few events, none is chosen twice, and the highest are chosen first.
    assert choose(recordings[1:], 2)[2:] == [("car", "lowest", 1, "b", 0.55)]


def test_equal_confidences_are_chosen_by_recording_and_onset():
    recordings = [finished("b", ("car", 0, 0.5)), finished("a", ("car", 3, 0.5), ("car", 1, 0.5))]
    clips = event_clips.choose_clips(recordings, 1)
    assert [(clip.choice, clip.recording, clip.event.onset_s) for clip in clips] == [("highest", "a", 1), ("lowest", "a", 3)]


def test_no_clips_without_events(tmp_path):
    assert event_clips.choose_clips([finished("a")], 3) == []
    event_clips.write_clips([], {}, RATE, tmp_path / "clips")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["clips.csv"]


@pytest.fixture
def ramp(tmp_path):
    """A recording of 50 s, more than two blocks, whose samples tell their position."""
    samples = (np.arange(50 * RATE) % 16_384 / 32_768).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, RATE, "PCM_16")
    return tmp_path / "a.wav", samples


def test_clips_have_a_second_of_margin_within_the_recording(tmp_path, ramp):
    """Also across the border of the blocks of 20 s in which recordings are read, and where events overlap."""
    file, samples = ramp
    bounds = {"start": (0.25, 1.0), "border": (19.5, 41.0), "within": (30.0, 30.02), "end": (49.0, 50.0)}
    expected = {"start": (0, 2.0), "border": (18.5, 42.0), "within": (29.0, 31.02), "end": (48.0, 50.0)}
    clips = [
        event_clips.EventClip("a.wav", DetectedEvent(onset, offset, label, 0.75), "highest", 1)
        for label, (onset, offset) in bounds.items()
    ]  # fmt: skip
    event_clips.write_clips(clips, {"a.wav": file}, RATE, tmp_path / "clips")
    for label, (start, end) in expected.items():
        cut, rate = soundfile.read(tmp_path / "clips" / label / "highest_001.wav", dtype="float32")
        assert rate == RATE
        np.testing.assert_array_equal(cut, samples[round(start * RATE) : round(end * RATE)])
    with (tmp_path / "clips/clips.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert rows[1] == {
        "clip": "border/highest_001.wav", "event": "border", "choice": "highest", "rank": "1", "confidence": "0.750000",
        "file": "a.wav", "start": "19.500000", "end": "41.000000", "clip_start": "18.500000",
    }  # fmt: skip


def test_labels_become_folders_that_every_system_takes(tmp_path, ramp):
    labels = ["a/b", "a:b", "A_B", "..", "", "x" * 300, "dog, far", "lärm"]
    clips = [event_clips.EventClip("a.wav", DetectedEvent(1.0, 2.0, label, 0.75), "highest", 1) for label in labels]
    event_clips.write_clips(clips, {"a.wav": ramp[0]}, RATE, tmp_path / "out/clips")
    folders = sorted(path.name for path in (tmp_path / "out/clips").iterdir() if path.is_dir())
    assert folders == sorted(["a_b", "a_b_2", "A_B_3", "_", "__5", "x" * 60, "dog, far", "lärm"])
    assert len(list((tmp_path / "out/clips").glob("*/highest_001.wav"))) == len(labels)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "out"]


def test_a_recording_that_is_gone_is_named(tmp_path, ramp, capsys):
    clips = [
        event_clips.EventClip(name, DetectedEvent(1.0, 2.0, "car", 0.75), "highest", rank) for rank, name in ((1, "b"), (2, "a"))
    ]
    event_clips.write_clips(clips, {"a": ramp[0], "b": tmp_path / "gone.wav"}, RATE, tmp_path / "clips")
    assert "gone.wav: no such recording; no clips of it" in capsys.readouterr().err
    assert [row.split(",")[0] for row in (tmp_path / "clips/clips.csv").read_text().splitlines()[1:]] == ["car/highest_002.wav"]
    assert [path.name for path in (tmp_path / "clips/car").iterdir()] == ["highest_002.wav"]


def test_samples_beyond_full_scale_are_clipped(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full(RATE, 3.0), RATE, "FLOAT")
    clip = event_clips.EventClip("a.wav", DetectedEvent(0.0, 1.0, "car", 0.75), "lowest", 12)
    event_clips.write_clips([clip], {"a.wav": tmp_path / "a.wav"}, RATE, tmp_path / "clips")
    samples, _ = soundfile.read(tmp_path / "clips/car/lowest_012.wav")
    assert len(samples) == RATE and samples.min() == pytest.approx(1, abs=1e-4)
