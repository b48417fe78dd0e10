"""The predict command: the files and texts that it writes, and what it refuses."""

import functools
import os
import shutil
import sys
import threading
import time

import numpy as np
import pytest

import mfl_jax
from mfl_jax import predict
from mfl_jax.errors import InputError
from mfl_jax.inference import postprocessing, writers
from mfl_jax.runtime import storage
from support import small
from support.predict_command import OVERVIEW, list_files, read_json, run_predict, write_noise

pytestmark = pytest.mark.lightly_optimised


@pytest.fixture
def call(tmp_path):
    """Runs the command in this process, writing to tmp_path / out; returns its status."""
    return functools.partial(run_predict, tmp_path / "out")


@pytest.fixture(scope="module")
def checkpoint(trained_run):
    return f"--checkpoint={trained_run[0]}"


@pytest.fixture(scope="module")
def audio(trained_run):
    """The folder of the recordings of both splits; four of them are for evaluation."""
    return trained_run[1] / "recordings" / "audio"


# Output.


def test_recording_gives_events_and_a_summary(call, checkpoint, audio, tmp_path, capsys):
    assert call(checkpoint, audio / "evaluation_1.wav") == 0
    assert list_files(tmp_path / "out") == sorted(["events/evaluation_1.tsv", "json/evaluation_1.json", *OVERVIEW])
    printed = capsys.readouterr().out
    expected = mfl_jax.load(checkpoint.partition("=")[2]).predict(audio / "evaluation_1.wav")
    content = read_json(tmp_path / "out/json/evaluation_1.json")
    assert content["recording"] == "evaluation_1.wav" and content["scene"]["label"] == expected.scene_label
    assert [(e["label"], e["onset_s"], e["offset_s"]) for e in content["events"]] == [
        (e.label, e.onset_s, e.offset_s) for e in expected.detected
    ]
    summary = read_json(tmp_path / "out/summary.json")
    assert summary["overlap"] == 0.5 and summary["postprocess"] == "none" and summary["step"] == 15
    assert summary["checkpoint"] == checkpoint.partition("=")[2] and "scores" not in summary
    (entry,) = summary["recordings"]
    assert entry["recording"] == "evaluation_1.wav" and entry["duration_s"] == 2.6 and entry["scene"] == expected.scene_label
    assert entry["scene_probability"] == pytest.approx(expected.scene.max())
    assert sum(entry["events"].values()) == len(expected.detected)
    assert "evaluation_1.wav" in printed and "1 recordings done, 0 refused" in printed and str(tmp_path / "out") in printed


def test_a_missing_package_is_named_before_anything_is_read(call, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jams", None)
    with pytest.raises(InputError, match=r"^jams is not installed"):
        call("--checkpoint=nowhere", "--write=events,jams", tmp_path / "nothing.wav")
    assert list_files(tmp_path) == []


def test_the_summary_keeps_warnings(call, checkpoint, tmp_path, capsys):
    write_noise(tmp_path / "in/good.wav")
    cut = write_noise(tmp_path / "in/cut.wav", 2 * small.RATE)
    cut.write_bytes(cut.read_bytes()[: -small.RATE])  # a quarter of the samples of 16 bits
    assert call(checkpoint, tmp_path / "in") == 0
    warning = "its header promises 2.000 s, but only the first 1.500 s are there"
    assert f"warning: cut.wav: {warning}" in capsys.readouterr().err.replace("\n", " ")
    cut_entry, good_entry = read_json(tmp_path / "out/summary.json")["recordings"]
    assert cut_entry["warning"] == warning and cut_entry["duration_s"] == 1.5 and "warning" not in good_entry


def test_all_formats_of_nested_folders(call, checkpoint, tmp_path):
    kinds = [kind for kind in writers.FORMATS if kind != "jams"]
    names = ["a.wav", "deep/er/a.wav", "übung/b c.FLAC", "[x].wav"]
    for number, name in enumerate(names):
        write_noise(tmp_path / "in" / name, 9000 + number, number)
    assert call(checkpoint, "--write=" + ",".join(kinds), tmp_path / "in") == 0
    stems = ["a", "deep/er/a", "übung/b c", "[x]"]
    expected = [f"{kind}/{stem}{writers.FORMATS[kind][1]}" for kind in kinds for stem in stems]
    assert list_files(tmp_path / "out") == sorted([*expected, *OVERVIEW])
    for name, stem in zip(names, stems, strict=True):
        content = read_json(tmp_path / "out/json" / f"{stem}.json")
        rows = [row.rpartition("\t")[0] for row in (tmp_path / "out/events" / f"{stem}.tsv").read_text().splitlines()[1:]]
        labels = (tmp_path / "out/audacity" / f"{stem}.txt").read_text().splitlines()
        assert content["recording"] == name and len(content["events"]) == len(rows) == len(labels)
        assert all(row == f"{name}\t{label}" for row, label in zip(rows, labels, strict=True))
        scores = np.loadtxt(tmp_path / "out/scores" / f"{stem}.tsv", skiprows=1)
        with np.load(tmp_path / "out/npz" / f"{stem}.npz", allow_pickle=False) as arrays:
            np.testing.assert_allclose(arrays["frame_scores"], scores[:, 2:], atol=6e-7)
            assert arrays["duration_s"] == content["duration_s"] == pytest.approx(scores[-1, 1], abs=1e-6)
    assert [entry["recording"] for entry in read_json(tmp_path / "out/summary.json")["recordings"]] == sorted(names)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the packages below jams
def test_jams_of_recordings(call, checkpoint, audio, tmp_path):
    jams = pytest.importorskip("jams")
    assert call(checkpoint, "--write=jams", audio / "evaluation_0.wav", audio / "evaluation_1.wav") == 0
    for number in (0, 1):
        assert jams.load(str(tmp_path / f"out/jams/evaluation_{number}.jams")).file_metadata.duration == 2.6


def test_files_that_differ_only_in_suffix_keep_it(call, checkpoint, tmp_path):
    for name in ("a.wav", "a.flac", "b.wav", "c.d.wav"):
        write_noise(tmp_path / "in" / name)
    assert call(checkpoint, "--write=events", tmp_path / "in") == 0
    assert list_files(tmp_path / "out/events") == ["a.flac.tsv", "a.wav.tsv", "b.tsv", "c.d.tsv"]


def test_each_recording_has_its_own_file(call, checkpoint, tmp_path):
    for name in ("a.wav", "a.flac", "a.wav.wav"):
        write_noise(tmp_path / "in" / name)
    assert call(checkpoint, "--write=events", tmp_path / "in") == 0
    assert len(list_files(tmp_path / "out/events")) == 3


def test_longest_file_names_can_be_written(call, checkpoint, tmp_path):
    write_noise(tmp_path / "in" / ("x" * 251 + ".wav"))
    assert call(checkpoint, "--write=events", tmp_path / "in") == 0


def test_second_call_overwrites_the_first(call, checkpoint, audio, tmp_path):
    assert call(checkpoint, audio / "evaluation_0.wav") == 0
    first = (tmp_path / "out/json/evaluation_0.json").read_text()
    assert call(checkpoint, "--overlap=0", audio / "evaluation_0.wav") == 0
    assert (tmp_path / "out/json/evaluation_0.json").read_text() != first
    assert call(checkpoint, audio / "evaluation_0.wav") == 0
    assert (tmp_path / "out/json/evaluation_0.json").read_text() == first
    assert len(list_files(tmp_path / "out")) == 2 + len(OVERVIEW)


def test_summary_has_all_recordings_and_the_screen_some(call, checkpoint, tmp_path, capsys):
    for number in range(predict.MAX_ROWS + 3):
        write_noise(tmp_path / "in" / f"{number:02}.wav", 400, number)
    assert call(checkpoint, "--write=", tmp_path / "in") == 0
    assert list_files(tmp_path / "out") == OVERVIEW
    assert len(read_json(tmp_path / "out/summary.json")["recordings"]) == predict.MAX_ROWS + 3
    printed = capsys.readouterr().out
    assert "24.wav" in printed and "25.wav" not in printed and "and 3 more" in printed


def test_summary_has_the_duration(call, checkpoint, tmp_path):
    for number in range(4):
        write_noise(tmp_path / "in" / f"{number}.wav", 8000)
    assert call(checkpoint, "--write=", tmp_path / "in") == 0
    assert read_json(tmp_path / "out/summary.json")["duration_s"] == pytest.approx(4.0)


# Post-processing.


@pytest.fixture
def tuned(trained_run, tmp_path):
    """A copy of the run with rules by which `low` is always active and `high` never."""
    shutil.copytree(trained_run[0], tmp_path / "run")
    rules = {"low": postprocessing.Rule(threshold=1e-6), "high": postprocessing.Rule(threshold=1.0)}
    (tmp_path / "run" / postprocessing.RULES_FILE).write_text(postprocessing.rules_to_json(rules, step=15))
    return tmp_path / "run"


def test_tuned_rules_are_used(call, tuned, audio, tmp_path, capsys):
    assert call(f"--checkpoint={tuned}", audio / "evaluation_0.wav") == 0
    assert read_json(tmp_path / "out/summary.json")["postprocess"] == "tuned"
    assert [e["label"] for e in read_json(tmp_path / "out/json/evaluation_0.json")["events"]] == ["low"]
    assert "warning" not in capsys.readouterr().err
    assert call(f"--checkpoint={tuned}", "--postprocess=none", audio / "evaluation_0.wav") == 0
    summary = read_json(tmp_path / "out/summary.json")
    assert summary["postprocess"] == "none" and summary["recordings"][0]["events"] != {"low": 1}


def test_file_of_rules_is_used_instead(call, tuned, audio, tmp_path):
    rules = tmp_path / "rules.json"
    rules.write_text('{"rules": {"*": {"threshold": 1e-6, "min_duration_s": 2}}}')
    assert call(f"--checkpoint={tuned}", f"--postprocess={rules}", audio / "evaluation_0.wav") == 0
    summary = read_json(tmp_path / "out/summary.json")
    assert summary["postprocess"] == str(rules) and summary["recordings"][0]["events"] == {"high": 1, "low": 1}


# Errors.


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--checkpoint="], "--checkpoint=FOLDER is missing"),
        ([], "name recordings, folders, lists of recordings, or -"),
        (["--checkpoint=nowhere", "AUDIO"], "nowhere: no trained run"),
        (["--checkpoint=AUDIO", "AUDIO"], "no trained run"),
        (["--checkpoint=RUN/config.json", "AUDIO"], "no trained run"),
        (["--checkpoint=RUN/checkpoints/7", "AUDIO"], "no checkpoint of step 7; available:"),
        (["--checkpoint=EMPTY", "AUDIO"], "there is no checkpoint yet"),
        (["--write=xml", "AUDIO"], "--write: unknown format 'xml'; the formats are events, json"),
        (["--write=events,,json", "AUDIO"], "--write: unknown format ''"),
        (["--overlap=1.0", "AUDIO"], "overlap must be at least 0 and below 1, not 1"),
        (["--overlap=-0.5", "AUDIO"], "overlap must be at least 0 and below 1, not -0.5"),
        (["--overlap=nan", "AUDIO"], "overlap must be at least 0 and below 1, not nan"),
        (["EMPTY"], "no recording in this folder"),
        (["--reference=nowhere.txt", "AUDIO"], "nowhere.txt"),
        (["--reference=AUDIO", "AUDIO"], "not readable"),
        (["--postprocess=nowhere.json", "AUDIO"], "nowhere.json: post-processing rules not readable"),
        (["--postprocess=META", "AUDIO"], "invalid post-processing rules"),
        (["--out=BLOCKED", "AUDIO"], "can't create this folder"),
        (["--out=BLOCKED/deeper", "AUDIO"], "can't create this folder"),
    ],
)
def test_mistakes_give_one_line(call, trained_run, tmp_path, arguments, expected):
    (tmp_path / "empty/checkpoints").mkdir(parents=True)
    (tmp_path / "blocked").write_text("a file")
    recordings = trained_run[1] / "recordings"
    paths = {
        "AUDIO": recordings / "audio/evaluation_0.wav", "META": recordings / "meta/meta_evaluation.txt", "RUN": trained_run[0],
        "EMPTY": tmp_path / "empty", "BLOCKED": tmp_path / "blocked",
    }  # fmt: skip
    for word, path in paths.items():
        arguments = [argument.replace(word, str(path)) for argument in arguments]
    with pytest.raises(InputError) as error:
        call(f"--checkpoint={trained_run[0]}", *arguments)
    assert expected in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_unreadable_recordings_are_named_and_the_others_done(call, checkpoint, audio, tmp_path, capsys):
    (tmp_path / "[bold]text.wav").write_text("no sound")
    assert call(checkpoint, tmp_path / "[bold]text.wav", audio / "evaluation_0.wav", tmp_path / "missing.wav") == 1
    assert list_files(tmp_path / "out") == sorted(["events/evaluation_0.tsv", "json/evaluation_0.json", *OVERVIEW])
    entries = {entry["recording"]: entry for entry in read_json(tmp_path / "out/summary.json")["recordings"]}
    assert entries["missing.wav"]["refused"] == "no such recording"
    assert "not readable as audio" in entries["[bold]text.wav"]["refused"] and "refused" not in entries["evaluation_0.wav"]
    captured = capsys.readouterr()
    assert "1 recordings done, 2 refused" in captured.out and "[bold]text.wav" in captured.out
    assert "refused: [bold]text.wav: not readable as audio" in captured.err.replace("\n", "")


def test_summary_without_a_readable_recording(call, checkpoint, tmp_path):
    assert call(checkpoint, tmp_path / "missing.wav") == 1
    summary = read_json(tmp_path / "out/summary.json")
    assert list_files(tmp_path / "out") == ["detections.csv", "summary.json"] and summary["duration_s"] == 0
    assert summary["recordings"] == [{"recording": "missing.wav", "refused": "no such recording"}]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_file_name_in_another_encoding_gives_no_traceback(call, checkpoint, tmp_path):
    good = write_noise(tmp_path / "in" / "a.wav")
    good.with_name(os.fsdecode(b"caf\xe9.wav")).write_bytes(good.read_bytes())
    assert call(checkpoint, tmp_path / "in") in (0, 1)
    assert (tmp_path / "out/events/a.tsv").is_file() and len(read_json(tmp_path / "out/summary.json")["recordings"]) == 2


def test_unknown_home_directory_is_refused(checkpoint, audio):
    with pytest.raises(InputError, match="no_user_of_this_name"):
        run_predict("~no_user_of_this_name/out", checkpoint, audio / "evaluation_0.wav")


def test_full_disk_gives_one_line_and_ends_the_threads(call, checkpoint, audio, tmp_path, monkeypatch):
    threads = threading.active_count()

    def full(prediction, file):
        with storage.atomic_path(file) as part:
            part.write_text("half of")
            raise OSError(28, "No space left on device")

    monkeypatch.setitem(writers.FORMATS, "events", (full, ".tsv"))
    with pytest.raises(InputError, match=r"can't be written \(No space left on device\)") as error:
        call(checkpoint, "--write=events", audio)
    del error  # its frames hold the prediction
    assert list_files(tmp_path / "out") == []
    deadline = time.monotonic() + 10
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() == threads
