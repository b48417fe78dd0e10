"""The predict command as part of a review: it goes on after a break, and sums up all recordings.

The model looks at each frame alone, so that the events of each recording are known.
"""

import csv
import os
import signal

import numpy as np
import pytest
import soundfile

from mfl_jax.errors import InputError
from mfl_jax.inference import writers
from support import frame_network, predict_command, small
from support.frame_network import tones
from support.predict_command import list_files, read_json, run_predict

RECORDINGS = {
    "a.wav": tones(("low", 1.0, 2.0, 0.5)),
    "deep/b.wav": tones(("high", 0.5, 1.0, 0.5), ("low", 2.0, 2.5, 0.2)),
    "c.wav": tones(),
}
"""Name -> samples; the events of each are those of its tones."""
EVENTS = [
    ("a.wav", 1.0, 2.0, "low"), ("deep/b.wav", 0.5, 1.0, "high"), ("deep/b.wav", 2.0, 2.5, "low")
]  # fmt: skip


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Predicts the folder tmp_path / in to tmp_path / out with flags; returns the status. `call.model` may be replaced."""
    for name, samples in RECORDINGS.items():
        write(tmp_path / "in" / name, samples)

    def predict(*arguments):
        monkeypatch.setattr(predict_command, "load_once", lambda _: predict.model)
        return run_predict(tmp_path / "out", "--checkpoint=nowhere", *arguments, tmp_path / "in")

    predict.model = frame_network.trained_model()
    return predict


def write(file, samples):
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, samples, small.RATE, "FLOAT")


def read_table(file):
    with file.open(encoding="utf-8", newline="") as text:
        return list(csv.reader(text))


def read_summary(tmp_path):
    return read_json(tmp_path / "out/summary.json")


def assert_expected_events(rows):
    assert [(row[0], row[3]) for row in rows] == [(event[0], event[3]) for event in EVENTS]
    times = [[float(field) for field in row[1:3]] for row in rows]
    np.testing.assert_allclose(times, [event[1:3] for event in EVENTS], atol=0.041)


# The table of all recordings.


def test_table_has_the_events_of_all_recordings(call, tmp_path):
    assert call() == 0
    header, *rows = read_table(tmp_path / "out/detections.csv")
    assert header == ["file", "start", "end", "event", "confidence"]
    assert_expected_events(rows)
    contents = [read_json(tmp_path / "out/json" / f"{stem}.json") for stem in ("a", "deep/b")]
    expected = [event for content in contents for event in content["events"]]
    assert [(float(row[1]), float(row[2]), float(row[4])) for row in rows] == [
        (event["onset_s"], event["offset_s"], event["confidence"]) for event in expected
    ]
    summary = read_summary(tmp_path)
    assert (summary["complete"], summary["remaining"], summary["reused"]) == (True, 0, 0)


def test_pandas_reads_the_table(call, tmp_path):
    pandas = pytest.importorskip("pandas")
    write(tmp_path / "in" / 'd "x", y.wav', RECORDINGS["a.wav"])
    call.model = frame_network.trained_model(events=('"low", far', "5' high"))
    assert call("--write=") == 0
    table = pandas.read_csv(tmp_path / "out/detections.csv")
    assert list(table["file"]) == ["a.wav", 'd "x", y.wav', "deep/b.wav", "deep/b.wav"]
    assert list(table["event"]) == ['"low", far', '"low", far', "5' high", '"low", far']
    assert table["confidence"].between(0.5, 1).all()


# Going on after a break.


def count_predicted(monkeypatch):
    """Notes the recordings whose files are written."""
    predicted = []
    original = writers.FORMATS["events"][0]

    def write_events(prediction, file):
        predicted.append(prediction.recording)
        original(prediction, file)

    monkeypatch.setitem(writers.FORMATS, "events", (write_events, ".tsv"))
    return predicted


def test_finished_recordings_are_reused(call, tmp_path, capsys, monkeypatch):
    assert call() == 0
    first = read_summary(tmp_path)
    predicted = count_predicted(monkeypatch)
    assert call("--resume") == 0
    assert predicted == [] and "3 of 3 recordings are finished and reused" in capsys.readouterr().err
    again = read_summary(tmp_path)
    assert (again["recordings"], again["duration_s"], again["reused"]) == (first["recordings"], 12.0, 3)
    assert_expected_events(read_table(tmp_path / "out/detections.csv")[1:])
    assert call() == 0  # without --resume everything is predicted
    assert sorted(predicted) == sorted(RECORDINGS) and read_summary(tmp_path)["reused"] == 0


def test_only_changed_and_new_recordings_are_predicted(call, tmp_path, monkeypatch):
    assert call() == 0
    write(tmp_path / "in/c.wav", RECORDINGS["a.wav"])
    write(tmp_path / "in/d.wav", RECORDINGS["a.wav"])
    os.utime(tmp_path / "in/a.wav", (1, 1))  # the same content
    predicted = count_predicted(monkeypatch)
    assert call("--resume") == 0
    assert sorted(predicted) == ["c.wav", "d.wav"]
    rows = read_table(tmp_path / "out/detections.csv")[1:]
    assert [row[0] for row in rows] == ["a.wav", "c.wav", "d.wav", "deep/b.wav", "deep/b.wav"]
    assert [entry["recording"] for entry in read_summary(tmp_path)["recordings"]] == ["a.wav", "c.wav", "d.wav", "deep/b.wav"]


CHANGES = {
    "overlap": lambda call, out: ["--overlap=0"],
    "rules": lambda call, out: [f"--postprocess={out / 'rules.json'}"],
    "another format": lambda call, out: ["--write=events,json,audacity"],
    "parameters": lambda call, out: setattr(call, "model", frame_network.trained_model(params={"a": np.zeros(2)})) or [],
    "a deleted file": lambda call, out: [(out / f"events/{name}.tsv").unlink() for name in ("a", "deep/b", "c")] and [],
    "a damaged record": lambda call, out: (out / "finished.jsonl").write_text('{"key": 1}\n[]\nnull\n{"detected": [1]}\n') and [],
}


@pytest.mark.parametrize("change", CHANGES)
def test_everything_else_is_predicted_anew(call, tmp_path, monkeypatch, change):
    assert call() == 0
    (tmp_path / "out/rules.json").write_text('{"rules": {"low": {"threshold": 0.6}}}')
    arguments = [argument for argument in CHANGES[change](call, tmp_path / "out") if argument]
    predicted = count_predicted(monkeypatch)
    assert call("--resume", *arguments) == 0
    assert sorted(predicted) == sorted(RECORDINGS) and read_summary(tmp_path)["reused"] == 0
    predicted.clear()
    assert call("--resume", *arguments) == 0 and predicted == []


def test_recording_whose_files_were_partly_overwritten_is_predicted_anew(call, tmp_path, monkeypatch):
    """A call with another overlap fails between two files of a recording."""

    def fail(prediction, file):
        raise OSError(28, "No space left on device")

    assert call() == 0
    with monkeypatch.context() as patch, pytest.raises(InputError, match="No space left on device"):
        patch.setitem(writers.FORMATS, "json", (fail, ".json"))
        call("--overlap=0", "--resume")
    predicted = count_predicted(monkeypatch)
    assert call("--resume") == 0
    assert len(predicted) == 1 and read_summary(tmp_path)["reused"] == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_call_says_what_was_done_and_goes_on(call, tmp_path, monkeypatch, capsys, number):
    original = writers.FORMATS["events"]

    def write_and_interrupt(prediction, file):
        original[0](prediction, file)
        os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setitem(writers.FORMATS, "events", (write_and_interrupt, ".tsv"))
        assert call("--clips=1") == 130
    assert "--resume goes on" in capsys.readouterr().err
    summary = read_summary(tmp_path)
    assert (summary["complete"], summary["remaining"], len(summary["recordings"])) == (False, 2, 1)
    (done,) = [file for file in list_files(tmp_path / "out") if file.startswith("events/")]
    with (tmp_path / "out/finished.jsonl").open("a") as rows:
        rows.write('{"key": "cut o')  # as by a kill
    predicted = count_predicted(monkeypatch)
    assert call("--resume") == 0
    assert len(predicted) == 2 and f"events/{predicted[0]}" != done
    summary = read_summary(tmp_path)
    assert (summary["complete"], summary["remaining"], summary["reused"]) == (True, 0, 1)
    assert_expected_events(read_table(tmp_path / "out/detections.csv")[1:])
    predicted.clear()
    assert call("--resume") == 0 and predicted == []


def test_long_recording_is_interrupted_before_its_end(call, tmp_path):
    """After the first batch of windows."""
    write(tmp_path / "in/long.wav", frame_network.noise(400_000))

    class Interrupting(frame_network.FrameModel):
        def probabilities(self, batch):
            os.kill(os.getpid(), signal.SIGTERM)
            return super().probabilities(batch)

    model = frame_network.trained_model()
    call.model = Interrupting(**{name: getattr(model, name) for name in model.__dataclass_fields__})
    assert call() == 130
    summary = read_summary(tmp_path)
    assert summary["recordings"] == [] and summary["remaining"] == 4 and summary["duration_s"] == 0
    assert list_files(tmp_path / "out") == ["detections.csv", "summary.json"]


def test_scores_include_reused_recordings(call, tmp_path, monkeypatch):
    labels = tmp_path / "labels.txt"
    labels.write_text(
        small.HEADER + "a.wav\tloud\t1.0\t2.5\tlow\ndeep/b.wav\tloud\t0.5\t1.0\thigh\nc.wav\tquiet\t\t\t\n", encoding="utf-8"
    )
    assert call(f"--reference={labels}") == 0
    expected = read_summary(tmp_path)["scores"]
    assert 0 < expected["recordings"]["event"]["micro_f"] < 100 and expected["recordings_scored"] == 3
    write(tmp_path / "in/deep/b.wav", RECORDINGS["deep/b.wav"] + np.float32(1e-9))
    predicted = count_predicted(monkeypatch)
    assert call(f"--reference={labels}", "--resume") == 0
    assert predicted == ["deep/b.wav"] and read_summary(tmp_path)["scores"] == expected
    labels.write_text(labels.read_text().replace("2.5", "2.0"))
    assert call(f"--reference={labels}", "--resume") == 0
    assert predicted == ["deep/b.wav", "a.wav"]
    assert read_summary(tmp_path)["scores"]["recordings"]["event"]["micro_f"] > expected["recordings"]["event"]["micro_f"]
    labels.write_text(labels.read_text().replace("c.wav\tquiet\t\t\t\n", "c.wav\tquiet\t\t\t?\n"))  # no longer annotated
    assert call(f"--reference={labels}", "--resume") == 0
    assert predicted == ["deep/b.wav", "a.wav", "c.wav"]


@pytest.mark.parametrize("tracks", ["audacity", "raven"])
def test_label_tracks_go_back_as_a_reference(call, tmp_path, tracks):
    """Uncorrected, they agree with the prediction except that they name no scenes."""
    assert call(f"--write={tracks}") == 0
    (tmp_path / "out" / tracks).rename(tmp_path / "corrected")
    (tmp_path / "corrected/c.txt").unlink()  # not checked, so not scored
    assert call(f"--write={tracks}", f"--reference={tmp_path / 'corrected'}") == 0
    scores = read_summary(tmp_path)["scores"]
    assert scores["recordings_scored"] == 2 and scores["recordings"].keys() == {"event"}
    assert scores["recordings"]["event"]["micro_f"] == 100


# Clips.


def test_clips_of_detections(call, tmp_path):
    assert call("--write=", "--clips=1") == 0
    header, *rows = read_table(tmp_path / "out/clips/clips.csv")
    assert header == ["clip", "event", "choice", "rank", "confidence", "file", "start", "end", "clip_start"]
    # The tone of amplitude 0.5 in a.wav gives higher scores than that of 0.2 in b.wav.
    assert [row[:4] + row[5:6] for row in rows] == [
        ["high/highest_001.wav", "high", "highest", "1", "deep/b.wav"],
        ["low/highest_001.wav", "low", "highest", "1", "a.wav"],
        ["low/lowest_001.wav", "low", "lowest", "1", "deep/b.wav"],
    ]
    assert [path for path in list_files(tmp_path / "out/clips") if path.endswith(".wav")] == [row[0] for row in rows]
    for name, _, _, _, _, recording, start, end, clip_start in rows:
        assert float(clip_start) == max(0, float(start) - 1)
        samples, rate = soundfile.read(tmp_path / "out/clips" / name, dtype="float32")
        first, last = round(float(clip_start) * rate), round((float(end) + 1) * rate)
        np.testing.assert_allclose(samples, RECORDINGS[recording][first:last], atol=1 / 32768)
        assert rate == small.RATE and len(samples) == last - first


def test_older_clips_are_deleted_and_other_files_kept(call, tmp_path):
    assert call("--write=", "--clips=1") == 0
    (tmp_path / "out/clips/high/mine.wav").write_text("notes")
    assert call("--write=", "--clips=1", "--postprocess=none", "--resume") == 0
    for name in ("a.wav", "deep/b.wav"):
        write(tmp_path / "in" / name, RECORDINGS["c.wav"])
    assert call("--write=", "--clips=1") == 0
    assert list_files(tmp_path / "out/clips") == ["clips.csv", "high/mine.wav"]


def test_negative_number_of_clips_is_refused(call):
    with pytest.raises(Exception, match="clips"):
        call("--clips=-1")


# The page of all recordings.


def test_index_links_the_pages(call, tmp_path):
    (tmp_path / "in/broken.wav").write_text("no sound")
    write(tmp_path / "in/50%.wav", RECORDINGS["c.wav"])
    assert call("--write=", "--page") == 1
    text = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    assert '<a href="pages/deep/b.html">deep/b.wav</a>' in text and '<a href="pages/50%25.html">50%.wav</a>' in text
    assert (tmp_path / "out/pages/deep/b.html").is_file() and (tmp_path / "out/pages/50%.html").is_file()
    assert "broken.wav was refused: not readable as audio" in text
    assert call("--write=") == 1 and (tmp_path / "out/index.html").is_file()


def test_clips_need_a_writable_folder(call, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/clips").write_text("a file")
    with pytest.raises(InputError, match=r"out/clips: clips can't be written \(.*\)$"):
        call("--write=", "--clips=1")
