"""The picture of a recording, against values computed here."""

import math

import librosa
import matplotlib.image
import numpy as np
import pytest

from mfl_jax import plot_style
from mfl_jax.data.annotation import Event
from mfl_jax.errors import InputError
from mfl_jax.inference import display_data, picture
from mfl_jax.inference.postprocessing import Rule
from mfl_jax.inference.prediction import DetectedEvent
from support.predictions import DETECTED, MEL, REFERENCE, make_prediction, write_noise


def draw_panels(prediction, tmp_path, *, level=0.1, **settings):
    """Draws the picture of noise; returns its axes by name, and the spectrogram."""
    audio_file = write_noise(tmp_path / "a.wav", prediction.duration_s, level)
    log_mel = display_data.read_spectrogram(prediction, audio_file, MEL, picture.COLUMNS)
    scores, scenes = (reduce(prediction, picture.COLUMNS) for reduce in (display_data.reduce_scores, display_data.average_scenes))
    with plot_style.theme():
        figure = picture.draw_figure(prediction, log_mel, scores, scenes, MEL, **settings)
    return {ax.get_label(): ax for ax in figure.axes}, log_mel


def test_rectangles_show_the_events(tmp_path):
    panels, _ = draw_panels(make_prediction(detected=DETECTED), tmp_path, reference=REFERENCE)
    assert list(panels) == ["spectrogram", "scores", "events", "scenes"]
    lanes = panels["events"]
    assert [tick.get_text() for tick in lanes.get_yticklabels()] == ["high", "unknown"]
    spans = {}
    for collection in lanes.collections:
        corners = [path.vertices for path in collection.get_paths()]
        spans[collection.get_gid()] = [(c[:, 0].min(), c[:, 0].max()) for c in corners]
        solid = len(collection.get_facecolor()) > 0
        assert solid == collection.get_gid().startswith("detected")
        lane = 0 if collection.get_gid().endswith("high") else 1
        middle = np.mean([c[:, 1].mean() for c in corners]) - lane
        assert (-0.5 < middle < 0) if solid else (0 < middle < 0.5)  # the axis points down: detected above reference
    assert set(spans) == {"detected high", "reference high", "reference unknown"}
    np.testing.assert_allclose(spans["detected high"], [(0.4, 0.9), (1.2, 1.5)])
    np.testing.assert_allclose(spans["reference high"], [(0.5, 1.0)])
    np.testing.assert_allclose(spans["reference unknown"], [(0.1, 0.3), (0.2, 0.4)])
    assert lanes.get_ylim()[0] > lanes.get_ylim()[1]


def test_scores_and_spectrogram_match_their_axes(tmp_path):
    panels, log_mel = draw_panels(make_prediction(1.99, detected=DETECTED), tmp_path)
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
    panels, _ = draw_panels(make_prediction(), tmp_path)
    calm, busy = (area.get_paths()[0].vertices for area in panels["scenes"].collections)
    assert calm[:, 1].max() == pytest.approx(0.75) and busy[:, 1].max() == pytest.approx(1)
    assert calm[:, 0].max() == pytest.approx(2.0)


def test_more_scenes_than_colours_are_pooled(tmp_path):
    many = make_prediction(
        scenes=[f"scene {n}" for n in range(12)], scene=np.full(12, 1 / 12), window_scenes=np.full((3, 12), 1 / 12, np.float32)
    )  # fmt: skip
    panels, _ = draw_panels(many, tmp_path)
    texts = [text.get_text() for text in panels["scenes"].get_legend().get_texts()]
    assert texts[0] == "3 others" and len(texts) == 10
    assert panels["scenes"].collections[-1].get_paths()[0].vertices[:, 1].max() == pytest.approx(1, abs=1e-5)


def test_most_important_of_hundreds_of_events_are_drawn(tmp_path):
    events = tuple(f"event {n}" for n in range(500))
    prediction = make_prediction(events=events, detected=(DetectedEvent(0.2, 0.4, "event 7", 0.9),))
    prediction.frame_scores[10, 250:] = np.linspace(0.2, 0.8, 250)
    panels, _ = draw_panels(prediction, tmp_path)
    rows = [tick.get_text() for tick in panels["scores"].get_yticklabels()]
    assert rows == ["event 7", *events[401:]]
    assert "400 events hidden: limit of 100 rows" in panels["scores"].get_title(loc="left")


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        (make_prediction(scenes=(), window_scenes=np.zeros((3, 0)), scene=np.zeros(0)), ["spectrogram", "scores", "events"]),
        (make_prediction(events=(), frame_scores=np.zeros((0, 0), np.float32)), ["spectrogram", "scenes"]),
        (make_prediction(0.1), ["spectrogram", "scores", "events", "scenes"]),
    ],
)
def test_panels_of_one_task_and_of_a_short_recording(tmp_path, prediction, expected):
    assert list(draw_panels(prediction, tmp_path)[0]) == expected
    file = tmp_path / "a.png"
    picture.write_picture(prediction, tmp_path / "a.wav", MEL, file)
    assert matplotlib.image.imread(file)[..., :3].std() > 0.02


def test_silence_is_dark(tmp_path):
    panels, log_mel = draw_panels(make_prediction(), tmp_path, level=0.0)
    assert np.ptp(log_mel) == 0
    (image,) = panels["spectrogram"].images
    assert image.norm(image.get_array()).max() < 1e-6


def test_file_is_reproducible(tmp_path):
    """It has the expected size and colours, leaves no other file, and takes any characters in names."""
    prediction = make_prediction(detected=DETECTED, recording="a $x^$ {b} \u97f3 \udcff" + "long/" * 40)
    write_noise(tmp_path / "a.wav")
    (tmp_path / "out").mkdir()
    reference = [Event(0, 1, "50 $ or $\\frac")]
    for name in ("one.png", "two.png"):
        picture.write_picture(prediction, tmp_path / "a.wav", MEL, tmp_path / "out" / name, reference=reference)
    one, two = sorted((tmp_path / "out").iterdir())
    assert one.read_bytes() == two.read_bytes()
    pixels = matplotlib.image.imread(one)
    assert pixels.shape[1] == 2100 and 900 < pixels.shape[0] < 2000
    blue = np.abs(pixels[..., :3] - np.array([0, 0x72, 0xB2]) / 255).max(-1) < 0.01
    assert blue.sum() > 1000


def test_missing_folder_is_refused(tmp_path):
    write_noise(tmp_path / "a.wav")
    with pytest.raises(InputError, match=r"none/a\.png: can't be written \(No such file or directory\)"):
        picture.write_picture(make_prediction(), tmp_path / "a.wav", MEL, tmp_path / "none" / "a.png")


def test_scores_at_the_threshold_are_outlined(tmp_path):
    """Of two events of 0.8 and 0.6, the threshold 0.7 outlines the first; another event has its own threshold."""
    prediction = make_prediction(detected=DETECTED)
    prediction.frame_scores[50:60, 1] = 0.3
    panels, _ = draw_panels(prediction, tmp_path, rules={"high": Rule(threshold=0.7), "low": Rule(threshold=0.25)})
    assert "outlined where they reach the threshold of the event, 0.25 to 0.7" in panels["scores"].get_title(loc="left")
    outlined = {
        collection.get_gid(): [path.vertices[:, 0] for path in collection.get_paths()]
        for collection in panels["scores"].collections
    }
    assert {name: [(x.min(), x.max()) for x in paths] for name, paths in outlined.items()} == {
        "threshold 0": [(pytest.approx(0.4), pytest.approx(0.9))], "threshold 1": [(pytest.approx(1.0), pytest.approx(1.2))],
    }  # fmt: skip
    panels, _ = draw_panels(make_prediction(detected=DETECTED), tmp_path)
    assert "outlined where they reach the threshold of 0.5 (" in panels["scores"].get_title(loc="left")


def test_lines_of_the_time_axis_run_through_all_panels(tmp_path):
    panels, _ = draw_panels(make_prediction(detected=DETECTED), tmp_path)
    places = [[line.get_xdata()[0] for line in ax.get_xgridlines() if line.get_visible()] for ax in panels.values()]
    assert len(places) == 4 and len(places[0]) > 4 and all(other == places[0] for other in places)


def test_title_of_the_scenes_names_the_runner_up(tmp_path):
    panels, _ = draw_panels(make_prediction(), tmp_path)
    assert panels["scenes"].get_title(loc="left") == "Scenes: calm (0.75), then busy (0.25)"
    alone = make_prediction(scenes=("calm",), scene=np.ones(1), window_scenes=np.ones((3, 1), np.float32))
    panels, _ = draw_panels(alone, tmp_path)
    assert panels["scenes"].get_title(loc="left") == "Scenes: calm (1.00)"
