"""The page of all recordings, as text."""

import pathlib
import re

from mfl_jax.inference import index_page
from mfl_jax.inference.finished_recordings import FinishedRecording
from mfl_jax.inference.prediction import DetectedEvent


def finished(recording, *events, duration_s=10.0, scene="street"):
    """A recording with events (label, onset, offset, confidence)."""
    detected = tuple(DetectedEvent(onset, offset, label, sure) for label, onset, offset, sure in events)
    counts = {label: sum(event.label == label for event in detected) for label in dict.fromkeys(e.label for e in detected)}
    entry = {
        "recording": recording, "duration_s": duration_s, "scene": scene, "scene_probability": scene and 0.756, "events": counts
    }  # fmt: skip
    return FinishedRecording("", entry, detected, None)


def write(folder, recordings, refused=(), remaining=0):
    def link(recording):
        return pathlib.PurePosixPath("pages", recording).with_suffix(".html")

    index_page.write_index(lambda: iter(recordings), refused, remaining, link, folder / "index.html")
    return (folder / "index.html").read_text(encoding="utf-8")


def read_rows(text):
    """The texts of the cells of all rows."""
    return [re.findall(r"<t[hd][^>]*>(?:<a [^>]*>)?([^<]*)", row) for row in re.findall(r"<tr>.*?</tr>", text)]


def test_counts_of_classes_and_rows_of_recordings(tmp_path):
    recordings = [
        finished("a.wav", ("car", 0, 2, 0.5), ("car", 3, 4, 0.7), ("bird", 1, 61, 0.9)),
        finished("deep/b.wav", ("car", 0, 3, 0.9), duration_s=3600.0, scene="park"),
        finished("c.wav"),
    ]
    text = write(tmp_path, recordings)
    assert "<p>3 recordings, 1:00:20.</p>" in text and "<p>Scenes: street 2, park 1.</p>" in text
    assert read_rows(text) == [
        ["Class", "Events", "Recordings", "Duration", "Mean confidence"],
        ["car", "3", "2", "0:06", "0.70"],
        ["bird", "1", "1", "1:00", "0.90"],
        ["Recording", "Length", "Scene", "Events"],
        ["a.wav", "0:10", "street (0.76)", "car 2, bird 1"],
        ["deep/b.wav", "1:00:00", "park (0.76)", "car 1"],
        ["c.wav", "0:10", "street (0.76)", ""],
    ]
    assert re.findall(r'href="(?!data)([^"]*)"', text) == ["pages/a.html", "pages/deep/b.html", "pages/c.html"]
    assert "problem" not in text.partition("</style>")[2]


def test_refused_and_remaining_recordings_are_named(tmp_path):
    text = write(tmp_path, [], [{"recording": "<b>.wav", "refused": "no such recording"}], remaining=2)
    assert "Interrupted: 2 recordings not predicted yet." in text
    assert "&lt;b&gt;.wav was refused: no such recording" in text and "<b>" not in text
    assert "0 recordings, 0:00" in text and "Class" not in text


def test_names_and_labels_are_text(tmp_path):
    evil = '"><img src=x onerror=alert(1)>.wav'
    text = write(tmp_path, [finished(evil, ("<script>", 0, 1, 0.5), scene="<i>")])
    assert "<img" not in text and "<script" not in text and "<i>" not in text
    assert read_rows(text)[-1][0] == "&quot;&gt;&lt;img src=x onerror=alert(1)&gt;.wav"
    assert 'href="pages/%22%3E%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E.html"' in text


def test_recordings_without_scenes(tmp_path):
    text = write(tmp_path, [finished("a.wav", ("car", 0, 1, 0.5), scene=None)])
    assert read_rows(text)[-1] == ["a.wav", "0:10", "", "car 1"] and "Scenes" not in text


def test_page_loads_nothing(tmp_path):
    text = write(tmp_path, [finished("a.wav")])
    assert "default-src 'none'" in text and not re.search(r"https?:|src=|@import|url\(", text)
