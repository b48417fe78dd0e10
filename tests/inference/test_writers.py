"""The files of predictions, read back by other programs."""

import csv
import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from mfl_jax.data import event_list
from mfl_jax.errors import InputError
from mfl_jax.inference import prediction, writers
from mfl_jax.scoring.eval_packages import import_eval_packages
from support import ROOT, TESTS

EVENTS = (("car", 0.1, 0.5, 0.75), ("bird song", 0.48, 2.59, 0.5123456789), ("car", 1.0, 1.02, 1.0))


def make_prediction(
    recording="rain 1.wav", *, frames=130, hop_s=0.02, duration_s=2.59, scenes=("park", "street"), detected=EVENTS, events=None
):
    """A prediction of three overlapping windows."""
    events = ("bird song", "car") if events is None else events
    rng = np.random.default_rng(0)
    windows = rng.dirichlet(np.ones(len(scenes)), 3) if scenes else np.zeros((3, 0))
    return prediction.Prediction(
        recording=recording, duration_s=duration_s, hop_s=hop_s, scenes=scenes, events=events,
        scene=windows.mean(0).astype(np.float32),
        window_start_s=np.array([0.0, 1.0, 2.0]), window_end_s=np.array([2.0, 2.59, 2.59]),
        window_scenes=windows.astype(np.float32), frame_scores=rng.random((frames, len(events))).astype(np.float32),
        clip_scores=None, clip_s=2.0, overlap=0.5, frequency_range_hz=(50.0, 4000.0),
        detected=tuple(prediction.DetectedEvent(onset, offset, label, sure) for label, onset, offset, sure in detected),
    )  # fmt: skip


SCENE_ONLY = {"events": (), "detected": ()}
EVENT_ONLY = {"scenes": ()}
SILENT = {"detected": ()}
ALL = [name for name in writers.FORMATS if name != "jams"]


def write_file(kind, result, folder):
    if kind == "jams":
        pytest.importorskip("jams")
    write, suffix = writers.FORMATS[kind]
    write(result, file := folder / f"out{suffix}")
    return file


def read_table(file):
    with file.open(encoding="utf-8", newline="") as text:
        return list(csv.reader(text, delimiter="\t"))


# Lists of events.

ODD = ["a b.wav", "rain/übung/城市.wav", "a,b;c.wav", "[x] {y}.wav", 'say "hi".wav', "it's.wav", "-1.wav", "100%.wav", "\\n.wav"]


@pytest.mark.parametrize("name", ODD)
def test_events_are_a_table(tmp_path, name):
    rows = read_table(write_file("events", make_prediction(name), tmp_path))
    assert rows[0] == ["filename", "onset", "offset", "event_label", "confidence"]
    assert rows[1:] == [
        [name, "0.100000", "0.500000", "car", "0.750000"],
        [name, "0.480000", "2.590000", "bird song", "0.512346"],
        [name, "1.000000", "1.020000", "car", "1.000000"],
    ]


@pytest.mark.parametrize(
    "name", ["tab\there.wav", "new\nline.wav", "re\r\nturn.wav", "u\u2028v.wav", "a\x0bb\x0cc.wav", " a .wav"]
)
def test_field_and_row_separators_become_spaces(tmp_path, name):
    result = make_prediction(name, detected=[("x\ty\nz", 0.0, 1.0, 0.5)], events=("x\ty\nz",))
    lines = write_file("events", result, tmp_path).read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2 and lines[1].split("\t") == [" ".join(name.split()), "0.000000", "1.000000", "x y z", "0.500000"]
    assert write_file("audacity", result, tmp_path).read_text().splitlines() == ["0.000000\t1.000000\tx y z"]
    header = write_file("scores", result, tmp_path).read_text().splitlines()[0]
    assert header == "onset\toffset\tx y z"


LABELS = ["talk, far", '"door"', '"door" bang', '5" pipe', "it's", "#1"]


@pytest.mark.parametrize("name", [*ODD, '"hi" she said.wav', '"x".wav'])
@pytest.mark.parametrize("label", LABELS)
def test_events_are_read_back(tmp_path, name, label):
    result = make_prediction(name, detected=[(label, 0.0, 1.5, 0.5)], events=(label,))
    (recording, events), *others = event_list.read_event_list(write_file("events", result, tmp_path)).items()
    assert recording == name and not others and [(e.onset_s, e.offset_s, e.label) for e in events] == [(0.0, 1.5, label)]
    (events,) = event_list.read_event_list(write_file("audacity", result, tmp_path)).values()
    assert [(e.onset_s, e.offset_s, e.label) for e in events] == [(0.0, 1.5, label)]


@pytest.mark.parametrize("name", ['he said "x".wav', '"x".wav', "a,b.wav"])
def test_pandas_reads_the_tables(tmp_path, name):
    pandas = pytest.importorskip("pandas")
    result = make_prediction(name, detected=[(label, 0.0, 1.5, 0.5) for label in LABELS], events=LABELS)
    events = pandas.read_csv(write_file("events", result, tmp_path), sep="\t")
    assert events.to_numpy().tolist() == [[name, 0.0, 1.5, label, 0.5] for label in LABELS]
    assert list(pandas.read_csv(write_file("scores", result, tmp_path), sep="\t").columns) == ["onset", "offset", *LABELS]
    labels = pandas.read_csv(write_file("audacity", result, tmp_path), sep="\t", header=None)
    assert labels.to_numpy().tolist() == [[0.0, 1.5, label] for label in LABELS]


def test_audacity_gets_labels_as_they_are(tmp_path):
    result = make_prediction(detected=[('5" pipe', 0.0, 1.5, 0.5)], events=('5" pipe',))
    assert write_file("audacity", result, tmp_path).read_text() == '0.000000\t1.500000\t5" pipe\n'


@pytest.mark.parametrize("name", ["a b.wav", "folder/c,d.wav", "[x] {y}.wav", 'he said "x".wav'])
def test_sed_eval_and_dcase_util_read_the_events(tmp_path, name):
    pytest.importorskip("sed_eval")
    sed_eval, _ = import_eval_packages()
    import dcase_util

    file = write_file("events", make_prediction(name), tmp_path)
    for detected in (sed_eval.io.load_event_list(str(file)), dcase_util.containers.MetaDataContainer().load(str(file))):
        assert [(row["filename"], row["onset"], row["offset"], row["event_label"], row["confidence"]) for row in detected] == [
            (name, onset, offset, label, pytest.approx(sure, abs=5e-7)) for label, onset, offset, sure in EVENTS
        ]
    assert len(sed_eval.io.load_event_list(str(write_file("events", make_prediction(name, **SILENT), tmp_path)))) == 0


def test_audacity_reads_a_label_track(tmp_path):
    text = write_file("audacity", make_prediction(), tmp_path).read_text()
    assert text == "0.100000\t0.500000\tcar\n0.480000\t2.590000\tbird song\n1.000000\t1.020000\tcar\n"


@pytest.mark.parametrize("case", [SCENE_ONLY, SILENT])
def test_lists_without_events(tmp_path, case):
    assert (
        write_file("events", make_prediction(**case), tmp_path).read_text()
        == "filename\tonset\toffset\tevent_label\tconfidence\n"
    )
    assert write_file("audacity", make_prediction(**case), tmp_path).read_text() == ""


def test_raven_reads_a_selection_table(tmp_path):
    text = write_file("raven", make_prediction(), tmp_path).read_text()
    assert text.splitlines() == [
        "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)\tAnnotation\tConfidence",
        "1\tSpectrogram 1\t1\t0.100000\t0.500000\t50.000000\t4000.000000\tcar\t0.750000",
        "2\tSpectrogram 1\t1\t0.480000\t2.590000\t50.000000\t4000.000000\tbird song\t0.512346",
        "3\tSpectrogram 1\t1\t1.000000\t1.020000\t50.000000\t4000.000000\tcar\t1.000000",
    ]
    (events,) = event_list.read_event_list(tmp_path / "out.txt").values()
    assert [(e.label, e.onset_s, e.offset_s) for e in events] == [event[:3] for event in EVENTS]
    assert len(read_table(write_file("raven", make_prediction(**SILENT), tmp_path))) == 1


# JSON.

PROBABILITIES = {"type": "object", "additionalProperties": {"type": "number", "minimum": 0, "maximum": 1}}
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["recording", "duration_s", "hop_s", "overlap"],
    "properties": {
        "recording": {"type": "string"},
        "duration_s": {"type": "number", "exclusiveMinimum": 0},
        "hop_s": {"type": "number", "exclusiveMinimum": 0},
        "overlap": {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
        "warning": {"type": "string", "minLength": 1},
        "scene": {
            "type": "object", "additionalProperties": False, "required": ["label", "probabilities"],
            "properties": {"label": {"type": "string"}, "probabilities": PROBABILITIES},
        },
        "scene_over_time": {
            "type": "array",
            "items": {
                "type": "object", "additionalProperties": False, "required": ["onset_s", "offset_s", "probabilities"],
                "properties": {"onset_s": {"type": "number"}, "offset_s": {"type": "number"}, "probabilities": PROBABILITIES},
            },
        },
        "events": {
            "type": "array",
            "items": {
                "type": "object", "additionalProperties": False, "required": ["label", "onset_s", "offset_s", "confidence"],
                "properties": {
                    "label": {"type": "string"}, "onset_s": {"type": "number", "minimum": 0}, "offset_s": {"type": "number"},
                    "confidence": {"type": "number", "minimum": 0, "maximum": 1},
                },
            },
        },
    },
}  # fmt: skip


@pytest.mark.parametrize("name", [*ODD, "tab\there.wav", "new\nline.wav", '"quoted".wav', "\x01.wav"])
@pytest.mark.parametrize("case", [{}, SCENE_ONLY, EVENT_ONLY, SILENT], ids=["both", "scenes", "events", "silent"])
def test_json_holds_the_prediction(tmp_path, name, case):
    result = make_prediction(name, **case)
    content = json.loads(write_file("json", result, tmp_path).read_text(encoding="utf-8"))
    assert (content["recording"], content["duration_s"], content["hop_s"], content["overlap"]) == (name, 2.59, 0.02, 0.5)
    assert ("scene" in content, "scene_over_time" in content, "events" in content) == (
        bool(result.scenes), bool(result.scenes), bool(result.events)
    )  # fmt: skip
    if result.events:
        assert [(e["label"], e["onset_s"], e["offset_s"]) for e in content["events"]] == [
            e[:3] for e in case.get("detected", EVENTS)
        ]
        np.testing.assert_allclose(
            [e["confidence"] for e in content["events"]], [e.confidence for e in result.detected], rtol=0, atol=5e-7
        )
    if result.scenes:
        assert content["scene"]["label"] == result.scene_label
        assert list(content["scene"]["probabilities"]) == ["park", "street"]
        np.testing.assert_allclose(list(content["scene"]["probabilities"].values()), result.scene, atol=1e-6)
        over_time = content["scene_over_time"]
        assert [(w["onset_s"], w["offset_s"]) for w in over_time] == [(0, 2), (1, 2.59), (2, 2.59)]
        np.testing.assert_allclose([list(w["probabilities"].values()) for w in over_time], result.window_scenes, atol=1e-6)


def test_json_has_a_warning_if_there_is_one(tmp_path):
    result = dataclasses.replace(make_prediction(), warning="it is silent")
    content = json.loads(write_file("json", result, tmp_path).read_text(encoding="utf-8"))
    assert content["warning"] == "it is silent"
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(content, SCHEMA)


@pytest.mark.parametrize("case", [{}, SCENE_ONLY, EVENT_ONLY, SILENT], ids=["both", "scenes", "events", "silent"])
def test_json_has_one_form(tmp_path, case):
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(json.loads(write_file("json", make_prediction(**case), tmp_path).read_text(encoding="utf-8")), SCHEMA)


# JAMS.


@pytest.mark.filterwarnings("ignore")  # of the packages below jams
@pytest.mark.parametrize("case", [{}, SCENE_ONLY, EVENT_ONLY, SILENT], ids=["both", "scenes", "events", "silent"])
def test_jams_is_valid_and_holds_the_same(tmp_path, case):
    jams = pytest.importorskip("jams")
    result = make_prediction("übung/a b.wav", **case)
    read = jams.load(str(write_file("jams", result, tmp_path)), validate=True, strict=True)
    assert read.validate(strict=True)
    assert read.file_metadata.duration == 2.59 and read.file_metadata.title == "übung/a b.wav"
    events, scenes = read.search(namespace="segment_open"), read.search(namespace="tag_open")
    assert (len(events), len(scenes)) == (bool(result.events), bool(result.scenes))
    if result.events:
        detected = [(o.value, o.time, o.time + o.duration, o.confidence) for o in events[0].data]
        assert [row[0] for row in detected] == [row[0] for row in case.get("detected", EVENTS)]
        for row, expected in zip(detected, case.get("detected", EVENTS), strict=True):
            assert row[1:] == pytest.approx(expected[1:], abs=1e-9)
    if result.scenes:
        detected = [(o.time, o.time + o.duration, o.value, o.confidence) for o in scenes[0].data]
        for row, start, end, scores in zip(detected, (0, 1, 2), (2, 2.59, 2.59), result.window_scenes, strict=True):
            assert row[:2] == pytest.approx((start, end)) and row[2] == ("park", "street")[scores.argmax()]
            assert row[3] == pytest.approx(scores.max())
    assert os.listdir(tmp_path) == ["out.jams"]


def test_missing_package_gives_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jams", None)
    with pytest.raises(InputError, match=r"^jams is not installed, but JAMS files need it: pip install -e '\.\[jams\]'"):
        writers.write_jams(make_prediction(), tmp_path / "out.jams")
    assert os.listdir(tmp_path) == []


# Scores.


@pytest.mark.parametrize(("hop_s", "frames"), [(0.02, 130), (1 / 3, 500), (256 / 22_050, 3000), (882 / 44_100, 70_000)])
def test_frame_scores_are_a_table(tmp_path, hop_s, frames):
    result = make_prediction(frames=frames, hop_s=hop_s, duration_s=(frames - 0.4) * hop_s)
    file = write_file("scores", result, tmp_path)
    assert read_table(file)[0] == ["onset", "offset", "bird song", "car"]
    values = np.loadtxt(file, skiprows=1, delimiter="\t")
    np.testing.assert_allclose(values[:, 0], np.arange(frames) * hop_s, rtol=0, atol=6e-7)
    np.testing.assert_array_equal(values[1:, 0], values[:-1, 1])  # equal as text
    assert values[-1, 1] == pytest.approx((frames - 0.4) * hop_s, abs=6e-7)
    np.testing.assert_allclose(values[:, 2:], result.frame_scores, rtol=0, atol=6e-7)


@pytest.mark.parametrize(("frames", "duration_s"), [(130, 2.59), (1, 0.000125), (1, 0.02), (70_000, 1400.0)])
def test_sed_scores_eval_reads_the_scores(tmp_path, frames, duration_s):
    pytest.importorskip("sed_scores_eval")
    import_eval_packages()
    from sed_scores_eval.base_modules.io import read_sed_scores

    result = make_prediction(frames=frames, duration_s=duration_s)
    read = read_sed_scores(write_file("scores", result, tmp_path))
    assert list(read.columns) == ["onset", "offset", "bird song", "car"]
    np.testing.assert_allclose(read[["bird song", "car"]].to_numpy(), result.frame_scores, rtol=0, atol=6e-7)
    assert read["offset"].iloc[-1] == pytest.approx(duration_s, abs=1e-9) and len(read) == frames


def test_scores_without_events_have_no_columns(tmp_path):
    rows = read_table(write_file("scores", make_prediction(**SCENE_ONLY), tmp_path))
    assert rows[0] == ["onset", "offset"] and len(rows) == 131 and rows[-1] == ["2.580000", "2.590000"]


# Arrays.


@pytest.mark.parametrize("case", [{}, SCENE_ONLY, EVENT_ONLY, SILENT], ids=["both", "scenes", "events", "silent"])
def test_arrays_need_no_pickles(tmp_path, case):
    result = make_prediction("a.wav", **case)
    with np.load(write_file("npz", result, tmp_path), allow_pickle=False) as arrays:
        held = {name: arrays[name] for name in arrays.files}
    for name in ("scene", "window_start_s", "window_end_s", "window_scenes", "frame_scores", "duration_s", "hop_s"):
        np.testing.assert_array_equal(held[name], getattr(result, name))
        assert held[name].dtype == np.asarray(getattr(result, name)).dtype
    assert tuple(held["scenes"]) == result.scenes and tuple(held["events"]) == result.events
    assert all(held[name].dtype.kind == "U" for name in ("scenes", "events", "event_label"))
    columns = [held[f"event_{name}"] for name in ("label", "onset_s", "offset_s", "confidence")]
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == list(case.get("detected", EVENTS))


def test_arrays_include_clip_scores(tmp_path):
    result = dataclasses.replace(make_prediction(), clip_scores=np.ones((130, 2), np.float32))
    with np.load(write_file("npz", result, tmp_path), allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["clip_scores"], result.clip_scores)


def test_memory_mapped_scores_are_written_like_others(tmp_path):
    result = make_prediction()
    mapped = np.memmap(tmp_path / "spool", np.float32, "w+", shape=result.frame_scores.shape)
    mapped[:] = result.frame_scores
    for kind in ("scores", "npz"):
        plain = write_file(kind, result, tmp_path).read_bytes()
        assert write_file(kind, dataclasses.replace(result, frame_scores=mapped), tmp_path).read_bytes() == plain


# Atomic writes.


class Broken(Exception):
    pass


class Failing:
    """Frame scores whose second half can't be read."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return self.rows

    def __getitem__(self, frames):
        if frames.start:
            raise Broken
        return np.zeros((min(frames.stop, self.rows), 2), np.float32)

    def __array__(self, dtype=None, copy=None):
        raise Broken


@pytest.mark.parametrize("before", [None, "previous content"])
@pytest.mark.parametrize("kind", ["scores", "npz"])
def test_failed_writer_keeps_the_previous_file(tmp_path, kind, before):
    write, suffix = writers.FORMATS[kind]
    file = tmp_path / f"out{suffix}"
    if before:
        file.write_text(before)
    with pytest.raises(Broken):
        write(dataclasses.replace(make_prediction(), frame_scores=Failing(2 * writers.ROWS_AT_ONCE)), file)
    assert os.listdir(tmp_path) == ([file.name] if before else [])
    assert not before or file.read_text() == before


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the packages below jams
@pytest.mark.parametrize("kind", writers.FORMATS)
def test_full_disk_leaves_no_file(tmp_path, kind, monkeypatch):
    if kind == "jams":
        pytest.importorskip("jams")
    write, suffix = writers.FORMATS[kind]

    def full(part, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(OSError, match="No space left"):
        write(make_prediction(), tmp_path / f"out{suffix}")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ALL)
def test_second_write_replaces_the_first(tmp_path, kind):
    write_file(kind, make_prediction("a.wav"), tmp_path)
    second = write_file(kind, make_prediction("b.wav", detected=[("car", 2, 2.5, 0.5)]), tmp_path).read_bytes()
    (tmp_path / "alone").mkdir()
    assert write_file(kind, make_prediction("b.wav", detected=[("car", 2, 2.5, 0.5)]), tmp_path / "alone").read_bytes() == second
    assert sorted(os.listdir(tmp_path)) == sorted(["alone", f"out{writers.FORMATS[kind][1]}"])


def test_texts_are_utf_8_in_any_locale(tmp_path):
    code = """
import pathlib, sys
sys.path[:0] = sys.argv[1].split(":")
from test_writers import make_prediction, writers
result = make_prediction("\\u57ce\\u5e02.wav", detected=[("\\xfc", 0, 1, 0.5)], events=("\\xfc",))
for kind in ("events", "json", "scores", "audacity"):
    writers.FORMATS[kind][0](result, pathlib.Path(sys.argv[2], kind))
"""
    environment = os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", code, f"{os.path.dirname(__file__)}:{TESTS}:{ROOT}", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "城市.wav" in (tmp_path / "events").read_text(encoding="utf-8")
