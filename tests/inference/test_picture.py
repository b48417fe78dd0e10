"""The picture of a recording: what it shows, against sums made here."""

import dataclasses
import math

import librosa
import matplotlib.image
import numpy as np
import pytest
import soundfile

from mfl_jax import plot_style
from mfl_jax.data import mel_spectrogram
from mfl_jax.data.annotation import Event
from mfl_jax.data.mel_spectrogram import MelConfig
from mfl_jax.errors import InputError
from mfl_jax.inference import display_data, picture
from mfl_jax.inference.prediction import DetectedEvent, Prediction

MEL = MelConfig(
    sample_rate_hz=8000, window_samples=320, hop_samples=160, fft_samples=512, mel_bins=32, high_hz=4000.0
)  # fmt: skip


def prediction(duration_s=2.0, scenes=("calm", "busy"), events=("high", "low", "never"), detected=(), **changes):
    frames = MEL.frames(round(duration_s * MEL.sample_rate_hz))
    scores = np.full((frames, len(events)), 0.02, np.float32)
    for event in detected:
        scores[round(event.onset_s / 0.02) : round(event.offset_s / 0.02), events.index(event.label)] = event.confidence
    starts_s = np.arange(0, max(duration_s - 0.5, 0.5), 0.5)
    window_scenes = np.tile(np.float32([0.75, 0.25])[: len(scenes)], (len(starts_s), 1))
    made = Prediction(
        recording="a.wav", duration_s=duration_s, hop_s=0.02, scenes=tuple(scenes), events=tuple(events),
        scene=window_scenes.mean(0), window_start_s=starts_s, window_end_s=np.minimum(starts_s + 1, duration_s),
        window_scenes=window_scenes, frame_scores=scores, clip_scores=None, detected=tuple(detected), clip_s=1.0, overlap=0.5,
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


HEARD = (DetectedEvent(0.4, 0.9, "high", 0.8), DetectedEvent(1.2, 1.5, "high", 0.6))
TRUE = (Event(0.5, 1.0, "high"), Event(0.1, 0.3, "unheard"), Event(0.2, 0.4, "unheard"))


def recording(file, duration_s=2.0, level=0.1):
    noise = np.random.default_rng(0).standard_normal(round(duration_s * MEL.sample_rate_hz))
    soundfile.write(file, (level * noise).clip(-1, 1), MEL.sample_rate_hz)
    return file


def drawn(heard, tmp_path, *, level=0.1, **settings):
    audio_file = recording(tmp_path / "a.wav", heard.duration_s, level)
    log_mel = display_data.read_spectrogram(heard, audio_file, MEL, picture.COLUMNS)
    scores, scenes = (reduce(heard, picture.COLUMNS) for reduce in (display_data.reduce_scores, display_data.average_scenes))
    with plot_style.theme("light"):
        figure = picture.draw_figure(heard, log_mel, scores, scenes, MEL, **settings)
    return {ax.get_label(): ax for ax in figure.axes}, log_mel


@pytest.mark.parametrize(("frames", "columns"), [(1, 5), (5, 5), (7, 3), (1000, 7), (400, 399), (10, 1)])
@pytest.mark.parametrize("block", [1, 3, 10_000])
def test_columns_are_maxima_over_their_frames(frames, columns, block):
    values = np.random.default_rng(frames).standard_normal((frames, 2)).astype(np.float32)
    pieces = [values[start : start + block] for start in range(0, frames, block)]
    found = display_data.reduce_columns(pieces, frames, columns)
    count = min(frames, columns)
    own = [[t for t in range(frames) if t * count // frames == column] for column in range(count)]
    assert sorted(t for some in own for t in some) == list(range(frames)) and all(own)
    np.testing.assert_array_equal(found, [values[some].max(0) for some in own])


def test_frames_that_nobody_promised_count_to_the_last_column():
    found = display_data.reduce_columns([np.float32([[1], [2], [3]]), np.zeros((0, 1), np.float32), np.float32([[9]])], 3, 3)
    assert found.tolist() == [[1], [2], [9]]
    assert display_data.reduce_columns([np.float32([[1]])], 3, 3).tolist() == [[1], [-np.inf], [-np.inf]]


def test_the_spectrogram_is_that_of_the_model(tmp_path):
    file = recording(tmp_path / "a.wav")
    whole = mel_spectrogram.compute_log_mel(soundfile.read(file, dtype="float32")[0], MEL)
    np.testing.assert_allclose(display_data.read_spectrogram(prediction(), file, MEL, 100), whole, rtol=0, atol=1e-5)
    tenth = display_data.read_spectrogram(prediction(), file, MEL, 10)
    np.testing.assert_allclose(tenth, whole.reshape(10, 10, 32).max(1), rtol=0, atol=1e-5)


def test_another_recording_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"lasts 2\.00 s, but the prediction covers 3\.00 s"):
        display_data.read_spectrogram(prediction(3.0), recording(tmp_path / "a.wav"), MEL, 100)


def test_scenes_are_means_over_the_windows_of_a_column():
    heard = prediction(
        2.0, window_start_s=np.array([0.0, 0.5, 1.0]), window_end_s=np.array([1.0, 1.5, 2.0]),
        window_scenes=np.float32([[1, 0], [0.5, 0.5], [0, 1]]),
    )  # fmt: skip
    # Windows 1; 1 and 2; 2 and 3; 3.
    np.testing.assert_allclose(display_data.average_scenes(heard, 4)[:, 0], [1, 0.75, 0.25, 0])
    assert display_data.average_scenes(prediction(scenes=(), window_scenes=np.zeros((3, 0))), 4).shape == (4, 0)


def test_rectangles_are_the_events(tmp_path):
    panels, _ = drawn(prediction(detected=HEARD), tmp_path, reference=TRUE)
    assert list(panels) == ["spectrogram", "scores", "events", "scenes"]
    lanes = panels["events"]
    assert [tick.get_text() for tick in lanes.get_yticklabels()] == ["high", "unheard"]
    found = {}
    for collection in lanes.collections:
        corners = [path.vertices for path in collection.get_paths()]
        found[collection.get_gid()] = [(c[:, 0].min(), c[:, 0].max()) for c in corners]
        solid = len(collection.get_facecolor()) > 0
        assert solid == collection.get_gid().startswith("detected")
        lane = 0 if collection.get_gid().endswith("high") else 1
        middle = np.mean([c[:, 1].mean() for c in corners]) - lane
        assert (-0.5 < middle < 0) if solid else (0 < middle < 0.5)  # the axis points down: detected above reference
    assert set(found) == {"detected high", "reference high", "reference unheard"}
    np.testing.assert_allclose(found["detected high"], [(0.4, 0.9), (1.2, 1.5)])
    np.testing.assert_allclose(found["reference high"], [(0.5, 1.0)])
    np.testing.assert_allclose(found["reference unheard"], [(0.1, 0.3), (0.2, 0.4)])
    assert lanes.get_ylim()[0] > lanes.get_ylim()[1]


def test_scores_and_spectrogram_are_where_their_axes_say(tmp_path):
    panels, log_mel = drawn(prediction(1.99, detected=HEARD), tmp_path)
    scores = panels["scores"]
    assert [tick.get_text() for tick in scores.get_yticklabels()] == ["high"]
    assert "2 events hidden: score below 0.1" in scores.get_title(loc="left")
    (image,) = scores.images
    assert image.get_extent() == [0, 2.0, 0.5, -0.5]  # 100 frames of 20 ms, though the recording ends within the last
    assert np.flatnonzero(np.asarray(image.get_array())[0] > 0.5).tolist() == [*range(20, 45), *range(60, 75)]
    assert scores.get_xlim() == (0, 1.99)
    mel = panels["spectrogram"]
    centres_hz = librosa.mel_frequencies(n_mels=34, fmin=0, fmax=4000)[1:-1]
    for tick, label in zip(mel.get_yticks(), mel.get_yticklabels(), strict=True):
        text = label.get_text()
        hz = float(text.replace("k", "")) * (1000 if "k" in text else 1)
        assert np.interp(hz, centres_hz, np.arange(32)) == pytest.approx(tick, abs=1e-6) or hz < centres_hz[0]
    shown = np.asarray(mel.images[0].get_array())
    np.testing.assert_allclose(shown - shown[0, 0], (log_mel.T - log_mel[0, 0]) * 10 / math.log(10), atol=1e-3)


def test_scene_areas_fill_the_picture(tmp_path):
    panels, _ = drawn(prediction(), tmp_path)
    calm, busy = (area.get_paths()[0].vertices for area in panels["scenes"].collections)
    assert calm[:, 1].max() == pytest.approx(0.75) and busy[:, 1].max() == pytest.approx(1)
    assert calm[:, 0].max() == pytest.approx(2.0)


def test_more_scenes_than_colours_are_pooled(tmp_path):
    many = prediction(
        scenes=[f"scene {n}" for n in range(12)], scene=np.full(12, 1 / 12), window_scenes=np.full((3, 12), 1 / 12, np.float32)
    )  # fmt: skip
    panels, _ = drawn(many, tmp_path)
    texts = [text.get_text() for text in panels["scenes"].get_legend().get_texts()]
    assert texts[0] == "3 others" and len(texts) == 10
    assert panels["scenes"].collections[-1].get_paths()[0].vertices[:, 1].max() == pytest.approx(1, abs=1e-5)


def test_of_hundreds_of_events_those_are_drawn_that_matter(tmp_path):
    events = tuple(f"event {n}" for n in range(500))
    heard = prediction(events=events, detected=(DetectedEvent(0.2, 0.4, "event 7", 0.9),))
    heard.frame_scores[10, 250:] = np.linspace(0.2, 0.8, 250)
    panels, _ = drawn(heard, tmp_path)
    rows = [tick.get_text() for tick in panels["scores"].get_yticklabels()]
    assert rows == ["event 7", *events[401:]]
    assert "400 events hidden: limit of 100 rows" in panels["scores"].get_title(loc="left")


@pytest.mark.parametrize(
    ("heard", "panels"),
    [
        (prediction(scenes=(), window_scenes=np.zeros((3, 0)), scene=np.zeros(0)), ["spectrogram", "scores", "events"]),
        (prediction(events=(), frame_scores=np.zeros((0, 0), np.float32)), ["spectrogram", "scenes"]),
        (prediction(0.1), ["spectrogram", "scores", "events", "scenes"]),
    ],
)
def test_one_task_or_next_to_no_time(tmp_path, heard, panels):
    assert list(drawn(heard, tmp_path)[0]) == panels
    file = tmp_path / "a.png"
    picture.write_picture(heard, tmp_path / "a.wav", MEL, file)
    assert matplotlib.image.imread(file)[..., :3].std() > 0.02


def test_silence_is_dark(tmp_path):
    panels, log_mel = drawn(prediction(), tmp_path, level=0.0)
    assert np.ptp(log_mel) == 0
    (image,) = panels["spectrogram"].images
    assert image.norm(image.get_array()).max() < 1e-6


def test_the_file(tmp_path):
    """Of the right size, the same each time, alone in its folder, and with any sign in its names."""
    heard = prediction(detected=HEARD, recording="a $x^$ {b} \u97f3 \udcff" + "long/" * 40)
    recording(tmp_path / "a.wav")
    (tmp_path / "out").mkdir()
    for name in ("one.png", "two.png"):
        picture.write_picture(heard, tmp_path / "a.wav", MEL, tmp_path / "out" / name, reference=[Event(0, 1, "50 $ or $\\frac")])
    one, two = sorted((tmp_path / "out").iterdir())
    assert one.read_bytes() == two.read_bytes()
    pixels = matplotlib.image.imread(one)
    assert pixels.shape[1] == 2100 and 900 < pixels.shape[0] < 2000
    blue = np.abs(pixels[..., :3] - np.array([0, 0x72, 0xB2]) / 255).max(-1) < 0.01
    assert blue.sum() > 1000


def test_a_folder_that_is_not_there(tmp_path):
    recording(tmp_path / "a.wav")
    with pytest.raises(InputError, match=r"none/a\.png: can't be written \(No such file or directory\)"):
        picture.write_picture(prediction(), tmp_path / "a.wav", MEL, tmp_path / "none" / "a.png")


def test_times_are_written_as_clocks_show_them():
    assert [display_data.format_clock(s) for s in (0, 59.9, 60, 3599, 3600, 86_400)] == [
        "0:00",
        "0:59",
        "1:00",
        "59:59",
        "1:00:00",
        "24:00:00",
    ]
