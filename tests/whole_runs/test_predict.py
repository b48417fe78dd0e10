"""From the command line to files of predictions: what is written, what is said, what is refused."""

import csv
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import soundfile
from absl import flags
from absl.testing import flagsaver

import mfl_jax
from mfl_jax import predict
from mfl_jax.data import label_list, prepared_dataset
from mfl_jax.errors import InputError
from mfl_jax.inference import picture, postprocessing, writers
from mfl_jax.runtime import storage
from mfl_jax.scoring import evaluate_run
from mfl_jax.training import setup
from mfl_jax.training.checkpoints import Checkpoints
from support import ROOT, small

pytestmark = pytest.mark.lightly_optimised


@pytest.fixture(scope="module")
def defined():
    """The flags of the command, which other modules' tests do not see."""
    before = set(flags.FLAGS)
    predict.define_flags()
    yield
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)


@pytest.fixture
def call(defined, tmp_path):
    """Calls the command in this process, writing to tmp_path / out; returns its status."""

    def call(*arguments, out=None):
        with flagsaver.flagsaver():
            rest = flags.FLAGS(["predict", f"--out={out or tmp_path / 'out'}", *map(str, arguments)])
            return predict.run(rest[1:])

    return call


@pytest.fixture(scope="module")
def checkpoint(trained_run):
    return f"--checkpoint={trained_run[0]}"


@pytest.fixture(scope="module")
def audio(trained_run):
    """The folder of recordings of both splits, four of them to evaluate."""
    return trained_run[1] / "recordings" / "audio"


@pytest.fixture(scope="module")
def evaluated(trained_run, tmp_path_factory):
    """What evaluating the run gives, and the label list of the split and its recordings."""
    workdir = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(trained_run[0], workdir)
    dataset = prepared_dataset.open_dataset("annotated_audio/small", trained_run[1] / "data")
    evaluate_run.evaluate_run(small.small_config(trained_run[1]), dataset, workdir)
    recordings = trained_run[1] / "recordings"
    files = sorted((recordings / "audio").glob("evaluation_*.wav"))
    return json.loads((workdir / "results.json").read_text()), recordings / "meta" / "meta_evaluation.txt", files


def noise(file, samples=9000, seed=0):
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, 0.05 * np.random.default_rng(seed).standard_normal(samples).clip(-9, 9), small.RATE)
    return file


def below(folder):
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def read(file):
    return json.loads(file.read_text(encoding="utf-8"))


# What is written.


def test_a_recording_gives_events_and_a_summary(call, checkpoint, audio, tmp_path, capsys):
    assert call(checkpoint, audio / "evaluation_1.wav") == 0
    assert below(tmp_path / "out") == ["events/evaluation_1.tsv", "json/evaluation_1.json", "summary.json"]
    said = capsys.readouterr().out
    expected = mfl_jax.load(checkpoint.partition("=")[2]).predict(audio / "evaluation_1.wav")
    content = read(tmp_path / "out/json/evaluation_1.json")
    assert content["recording"] == "evaluation_1.wav" and content["scene"]["label"] == expected.scene_label
    assert [(e["label"], e["onset_s"], e["offset_s"]) for e in content["events"]] == [
        (e.label, e.onset_s, e.offset_s) for e in expected.detected
    ]
    summary = read(tmp_path / "out/summary.json")
    assert summary["overlap"] == 0.5 and summary["postprocess"] == "none" and summary["step"] == 15
    assert summary["checkpoint"] == checkpoint.partition("=")[2] and "scores" not in summary
    (entry,) = summary["recordings"]
    assert entry["recording"] == "evaluation_1.wav" and entry["duration_s"] == 2.6 and entry["scene"] == expected.scene_label
    assert entry["scene_probability"] == pytest.approx(expected.scene.max())
    assert sum(entry["events"].values()) == len(expected.detected)
    assert "evaluation_1.wav" in said and "1 recordings done, 0 refused" in said and str(tmp_path / "out") in said


def test_all_formats_of_a_nested_folder(call, checkpoint, tmp_path):
    kinds = [kind for kind in writers.FORMATS if kind != "jams"]
    names = ["a.wav", "deep/er/a.wav", "übung/b c.FLAC", "[x].wav"]
    for number, name in enumerate(names):
        noise(tmp_path / "in" / name, 9000 + number, number)
    assert call(checkpoint, "--write=" + ",".join(kinds), tmp_path / "in") == 0
    stems = ["a", "deep/er/a", "übung/b c", "[x]"]
    expected = [f"{kind}/{stem}{writers.FORMATS[kind][1]}" for kind in kinds for stem in stems]
    assert below(tmp_path / "out") == sorted([*expected, "summary.json"])
    for name, stem in zip(names, stems, strict=True):
        content = read(tmp_path / "out/json" / f"{stem}.json")
        rows = (tmp_path / "out/events" / f"{stem}.tsv").read_text().splitlines()[1:]
        labels = (tmp_path / "out/audacity" / f"{stem}.txt").read_text().splitlines()
        assert content["recording"] == name and len(content["events"]) == len(rows) == len(labels)
        assert all(row == f"{name}\t{label}" for row, label in zip(rows, labels, strict=True))
        scores = np.loadtxt(tmp_path / "out/scores" / f"{stem}.tsv", skiprows=1)
        with np.load(tmp_path / "out/npz" / f"{stem}.npz", allow_pickle=False) as arrays:
            np.testing.assert_allclose(arrays["frame_scores"], scores[:, 2:], atol=6e-7)
            assert arrays["duration_s"] == content["duration_s"] == pytest.approx(scores[-1, 1], abs=1e-6)
    assert [entry["recording"] for entry in read(tmp_path / "out/summary.json")["recordings"]] == sorted(names)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the packages below jams
def test_jams_of_recordings(call, checkpoint, audio, tmp_path):
    jams = pytest.importorskip("jams")
    assert call(checkpoint, "--write=jams", audio / "evaluation_0.wav", audio / "evaluation_1.wav") == 0
    for number in (0, 1):
        assert jams.load(str(tmp_path / f"out/jams/evaluation_{number}.jams")).file_metadata.duration == 2.6


def test_files_that_differ_in_their_suffix_alone_keep_it(call, checkpoint, tmp_path):
    for name in ("a.wav", "a.flac", "b.wav", "c.d.wav"):
        noise(tmp_path / "in" / name)
    assert call(checkpoint, "--write=events", tmp_path / "in") == 0
    assert below(tmp_path / "out/events") == ["a.flac.tsv", "a.wav.tsv", "b.tsv", "c.d.tsv"]


def test_each_recording_has_its_own_file(call, checkpoint, tmp_path):
    for name in ("a.wav", "a.flac", "a.wav.wav"):
        noise(tmp_path / "in" / name)
    assert call(checkpoint, "--write=events", tmp_path / "in") == 0
    assert len(below(tmp_path / "out/events")) == 3


def test_the_longest_names_are_written_too(call, checkpoint, tmp_path):
    noise(tmp_path / "in" / ("x" * 251 + ".wav"))
    assert call(checkpoint, "--write=events", tmp_path / "in") == 0


def test_a_second_call_writes_over_the_first(call, checkpoint, audio, tmp_path):
    assert call(checkpoint, audio / "evaluation_0.wav") == 0
    first = (tmp_path / "out/json/evaluation_0.json").read_text()
    assert call(checkpoint, "--overlap=0", audio / "evaluation_0.wav") == 0
    assert (tmp_path / "out/json/evaluation_0.json").read_text() != first
    assert call(checkpoint, audio / "evaluation_0.wav") == 0
    assert (tmp_path / "out/json/evaluation_0.json").read_text() == first
    assert len(below(tmp_path / "out")) == 3


def test_many_recordings_are_all_in_the_summary_and_some_on_the_screen(call, checkpoint, tmp_path, capsys):
    for number in range(predict.MAX_ROWS + 3):
        noise(tmp_path / "in" / f"{number:02}.wav", 400, number)
    assert call(checkpoint, "--write=", tmp_path / "in") == 0
    assert below(tmp_path / "out") == ["summary.json"]
    assert len(read(tmp_path / "out/summary.json")["recordings"]) == predict.MAX_ROWS + 3
    said = capsys.readouterr().out
    assert "24.wav" in said and "25.wav" not in said and "and 3 more" in said


def test_the_summary_says_how_much_was_heard(call, checkpoint, tmp_path):
    for number in range(4):
        noise(tmp_path / "in" / f"{number}.wav", 8000)
    assert call(checkpoint, "--write=", tmp_path / "in") == 0
    assert read(tmp_path / "out/summary.json")["duration_s"] == pytest.approx(4.0)


def test_pictures_are_drawn_from_the_recording_and_its_labels(call, checkpoint, evaluated, tmp_path, monkeypatch):
    _, reference, files = evaluated
    drawn = []

    def draw(prediction, file, mel, target, *, reference):
        drawn.append((prediction.recording, file, mel.sample_rate_hz, target, reference))

    monkeypatch.setattr(picture, "write_picture", draw)
    other = noise(tmp_path / "other.wav")
    assert call(checkpoint, "--plot", "--write=", f"--reference={reference}", files[0], other) == 0
    found = {name: rest for name, *rest in drawn}
    labels = {recording.path: recording.events for recording in label_list.read_label_list(reference)}
    assert found["evaluation_0.wav"] == [
        files[0], small.RATE, tmp_path / "out/plots/evaluation_0.png", labels["audio/evaluation_0.wav"]
    ]  # fmt: skip
    assert found["other.wav"] == [other, small.RATE, tmp_path / "out/plots/other.png", None]


# Scores against labels.


def test_the_scores_are_those_of_evaluating(call, checkpoint, evaluated, tmp_path, capsys):
    results, reference, files = evaluated
    assert call(checkpoint, "--overlap=0", "--postprocess=none", f"--reference={reference}", *files) == 0
    scores = read(tmp_path / "out/summary.json")["scores"]
    assert scores["recordings_scored"] == 4
    for task in ("scene", "event"):
        for key in ("micro_f", "macro_f"):
            assert scores["clips"][task][key] == pytest.approx(results[task][key], abs=0.01)
    assert scores["recordings"]["event"] == scores["clips"]["event"]
    assert scores["clips"]["event"]["error_rate"] == pytest.approx(results["event"]["error_rate"], abs=1e-4)
    said = capsys.readouterr().out
    for task in ("scene", "event"):
        assert f"{results[task]['micro_f']:.2f}" in said and f"{results[task]['macro_f']:.2f}" in said


def test_by_default_both_ways_of_listening_are_scored(call, checkpoint, evaluated, tmp_path, capsys):
    results, reference, files = evaluated
    assert call(checkpoint, f"--reference={reference}", *files) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "--mode=evaluate" in said and "overlap 0.5" in said
    scores = read(tmp_path / "out/summary.json")["scores"]
    for task in ("scene", "event"):
        assert scores["clips"][task]["micro_f"] == pytest.approx(results[task]["micro_f"], abs=0.01)
        assert f"{scores['recordings'][task]['micro_f']:.2f}" in said
    # Counted anew from the label list and the scores of frames, with overlap.
    model = mfl_jax.load(checkpoint.partition("=")[2])
    hits = wrong = missed = right = 0
    for recording in label_list.read_label_list(reference):
        result = model.predict(reference.parent.parent / recording.path)
        middle = (np.arange(len(result.frame_scores)) + 0.5) * result.hop_s
        for column, label in enumerate(model.events):
            active = np.zeros(len(middle), bool)
            for event in recording.events:
                # A frame is active where an event covers its middle.
                active |= (event.label == label) & (event.onset_s <= middle) & (middle < event.offset_s)
            heard = result.frame_scores[:, column] >= np.float32(0.5)
            hits, wrong, missed = hits + (heard & active).sum(), wrong + (heard & ~active).sum(), missed + (~heard & active).sum()
        right += result.scene_label == recording.scene
    # Onsets and offsets may be rounded to frames in another way.
    assert scores["recordings"]["event"]["micro_f"] == pytest.approx(200 * hits / (2 * hits + wrong + missed), abs=2)
    assert scores["recordings"]["scene"]["micro_f"] == pytest.approx(25 * right)


def test_an_overlap_without_the_clips_of_evaluating_is_scored_in_one_way(call, checkpoint, evaluated, tmp_path, capsys):
    _, reference, files = evaluated
    assert call(checkpoint, "--overlap=0.3", f"--reference={reference}", *files) == 0
    assert set(read(tmp_path / "out/summary.json")["scores"]) == {"recordings", "recordings_scored"}
    assert "--mode=evaluate" not in capsys.readouterr().out


def test_recordings_without_labels_count_in_no_score(call, checkpoint, evaluated, tmp_path, capsys):
    _, reference, files = evaluated
    other = noise(tmp_path / "other.wav")
    assert call(checkpoint, f"--reference={reference}", *files) == 0
    expected = read(tmp_path / "out/summary.json")["scores"]
    capsys.readouterr()
    assert call(checkpoint, f"--reference={reference}", *files, other) == 0
    assert read(tmp_path / "out/summary.json")["scores"] == expected
    assert "1 of 5 recordings are not in" in capsys.readouterr().err
    assert call(checkpoint, f"--reference={reference}", other) == 0
    assert read(tmp_path / "out/summary.json")["scores"] == {"recordings_scored": 0}


def test_a_reference_of_other_classes_is_refused_before_anything_is_written(call, checkpoint, audio, tmp_path):
    reference = tmp_path / "labels.txt"
    reference.write_text(small.HEADER + "audio/evaluation_0.wav\tcalm\t0.1\t0.5\tbagpipe\n")
    with pytest.raises(InputError, match="bagpipe") as refused:
        call(checkpoint, f"--reference={reference}", audio)
    assert "\n" not in str(refused.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("task", ["scene", "event"])
def test_a_network_of_one_task(call, trained_run, evaluated, tmp_path, capsys, task):
    _, reference, files = evaluated
    dataset = prepared_dataset.open_dataset("annotated_audio/small", trained_run[1] / "data")
    config = small.small_config(trained_run[1], tasks=(task,))
    with Checkpoints(tmp_path / "run/checkpoints", keep=2) as checkpoints:
        checkpoints.save(setup.initial_state(config, dataset)[1], {**setup.checkpoint_metadata(config, dataset), "epoch": 0})
    written = "--write=" + ",".join(kind for kind in writers.FORMATS if kind != "jams")
    assert call(f"--checkpoint={tmp_path / 'run'}", written, f"--reference={reference}", *files) == 0
    summary, said = read(tmp_path / "out/summary.json"), capsys.readouterr().out
    for way in ("clips", "recordings"):
        assert set(summary["scores"][way]) == {task}
    assert ("scene micro F" in said, "event micro F" in said) == (task == "scene", task == "event")
    assert all((entry["scene"] is None) == (task == "event") for entry in summary["recordings"])
    content = read(tmp_path / "out/json/evaluation_0.json")
    assert ("scene" in content, "events" in content) == (task == "scene", task == "event")
    assert len(below(tmp_path / "out")) == 5 * 4 + 1


# Post-processing.


@pytest.fixture
def tuned(trained_run, tmp_path):
    """A copy of the run with rules that make one event of all that lies above nothing."""
    shutil.copytree(trained_run[0], tmp_path / "run")
    rules = {"low": postprocessing.Rule(threshold=1e-6), "high": postprocessing.Rule(threshold=1.0)}
    (tmp_path / "run" / postprocessing.RULES_FILE).write_text(postprocessing.rules_to_json(rules, step=15))
    return tmp_path / "run"


def test_what_was_tuned_is_used(call, tuned, audio, tmp_path, capsys):
    assert call(f"--checkpoint={tuned}", audio / "evaluation_0.wav") == 0
    assert read(tmp_path / "out/summary.json")["postprocess"] == "tuned"
    assert [e["label"] for e in read(tmp_path / "out/json/evaluation_0.json")["events"]] == ["low"]
    assert "warning" not in capsys.readouterr().err
    assert call(f"--checkpoint={tuned}", "--postprocess=none", audio / "evaluation_0.wav") == 0
    summary = read(tmp_path / "out/summary.json")
    assert summary["postprocess"] == "none" and summary["recordings"][0]["events"] != {"low": 1}


def test_a_file_of_rules_is_used_instead(call, tuned, audio, tmp_path):
    rules = tmp_path / "rules.json"
    rules.write_text('{"rules": {"*": {"threshold": 1e-6, "min_duration_s": 2}}}')
    assert call(f"--checkpoint={tuned}", f"--postprocess={rules}", audio / "evaluation_0.wav") == 0
    summary = read(tmp_path / "out/summary.json")
    assert summary["postprocess"] == str(rules) and summary["recordings"][0]["events"] == {"high": 1, "low": 1}


# What is refused.


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
def test_a_mistake_is_one_line(call, trained_run, tmp_path, arguments, expected):
    (tmp_path / "empty/checkpoints").mkdir(parents=True)
    (tmp_path / "blocked").write_text("a file")
    recordings = trained_run[1] / "recordings"
    words = {
        "AUDIO": recordings / "audio/evaluation_0.wav", "META": recordings / "meta/meta_evaluation.txt", "RUN": trained_run[0],
        "EMPTY": tmp_path / "empty", "BLOCKED": tmp_path / "blocked",
    }  # fmt: skip
    for word, path in words.items():
        arguments = [argument.replace(word, str(path)) for argument in arguments]
    with pytest.raises(InputError) as refused:
        call(f"--checkpoint={trained_run[0]}", *arguments)
    assert expected in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_read_is_named_and_the_rest_done(call, checkpoint, audio, tmp_path, capsys):
    (tmp_path / "[bold]text.wav").write_text("no sound")
    assert call(checkpoint, tmp_path / "[bold]text.wav", audio / "evaluation_0.wav", tmp_path / "missing.wav") == 1
    assert below(tmp_path / "out") == ["events/evaluation_0.tsv", "json/evaluation_0.json", "summary.json"]
    entries = {entry["recording"]: entry for entry in read(tmp_path / "out/summary.json")["recordings"]}
    assert entries["missing.wav"]["refused"] == "no such recording"
    assert "not readable as audio" in entries["[bold]text.wav"]["refused"] and "refused" not in entries["evaluation_0.wav"]
    captured = capsys.readouterr()
    assert "1 recordings done, 2 refused" in captured.out and "[bold]text.wav" in captured.out
    assert "refused: [bold]text.wav: not readable as audio" in captured.err.replace("\n", "")


def test_where_nothing_can_be_read_the_summary_says_so(call, checkpoint, tmp_path):
    assert call(checkpoint, tmp_path / "missing.wav") == 1
    summary = read(tmp_path / "out/summary.json")
    assert below(tmp_path / "out") == ["summary.json"] and summary["duration_s"] == 0
    assert summary["recordings"] == [{"recording": "missing.wav", "refused": "no such recording"}]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_name_in_another_encoding_ends_in_no_traceback(call, checkpoint, tmp_path):
    good = noise(tmp_path / "in" / "a.wav")
    good.with_name(os.fsdecode(b"caf\xe9.wav")).write_bytes(good.read_bytes())
    assert call(checkpoint, tmp_path / "in") in (0, 1)
    assert (tmp_path / "out/events/a.tsv").is_file() and len(read(tmp_path / "out/summary.json")["recordings"]) == 2


@pytest.mark.parametrize("flag", ["reference", "postprocess"])
def test_paths_with_brackets_end_in_no_traceback(call, checkpoint, evaluated, tmp_path, flag):
    _, reference, files = evaluated
    folder = tmp_path / "[" / "b]"  # a path that holds [/b]
    folder.mkdir(parents=True)
    shutil.copy(reference, folder / "labels.txt")
    (folder / "rules.json").write_text('{"rules": {}}')
    named = {"reference": folder / "labels.txt"} if flag == "reference" else {"reference": reference, flag: folder / "rules.json"}
    assert call(checkpoint, *(f"--{name}={value}" for name, value in named.items()), files[0]) == 0


def test_a_home_that_is_none_ends_in_no_traceback(call, checkpoint, audio):
    with pytest.raises(InputError, match="no_user_of_this_name"):
        call(checkpoint, audio / "evaluation_0.wav", out="~no_user_of_this_name/out")


def test_a_full_disk_is_one_line_and_ends_the_threads(call, checkpoint, audio, tmp_path, monkeypatch):
    threads = threading.active_count()

    def full(prediction, file):
        with storage.atomic_path(file) as part:
            part.write_text("half of")
            raise OSError(28, "No space left on device")

    monkeypatch.setitem(writers.FORMATS, "events", (full, ".tsv"))
    with pytest.raises(InputError, match=r"can't be written \(No space left on device\)") as refused:
        call(checkpoint, "--write=events", audio)
    del refused  # its frames hold the listener
    assert below(tmp_path / "out") == []
    deadline = time.monotonic() + 10
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() == threads


# The command itself.


def command(*arguments):
    return [sys.executable, "-m", "mfl_jax.predict", *map(str, arguments)]


def test_an_unknown_flag_is_one_line():
    done = subprocess.run(command("--chekpoint=x", "a.wav"), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and "chekpoint" in done.stderr and done.stderr.count("\n") == 1


def test_the_standard_input_is_a_recording(checkpoint, audio, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with (audio / "evaluation_0.wav").open("rb") as recording:
        done = subprocess.run(
            command(checkpoint, f"--out={tmp_path / 'out'}", "--write=npz", "-"),
            cwd=ROOT, stdin=recording, capture_output=True, text=True, check=False, env=os.environ | {"TMPDIR": str(temporary)},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert below(tmp_path / "out") == ["npz/stdin.npz", "summary.json"] and below(temporary) == []
    with np.load(tmp_path / "out/npz/stdin.npz", allow_pickle=False) as arrays:
        expected = mfl_jax.load(checkpoint.partition("=")[2]).predict(audio / "evaluation_0.wav")
        np.testing.assert_allclose(arrays["frame_scores"], expected.frame_scores, rtol=0, atol=1e-6)
    assert "Traceback" not in done.stderr and "1 recordings done, 0 refused" in done.stdout


def test_an_interrupt_ends_in_good_order(checkpoint, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    noise(tmp_path / "short.wav", 400)
    with soundfile.SoundFile(tmp_path / "long.flac", "w", small.RATE, 1) as out:
        for _ in range(3):
            out.write(np.zeros(3600 * small.RATE, np.int16))
    # Where the tests run in the background, interrupts are ignored, and by what they start too.
    heed = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    heed += "runpy.run_module('mfl_jax.predict', run_name='__main__', alter_sys=True)"
    flags = command(checkpoint, f"--out={tmp_path / 'out'}", "--write=events", tmp_path / "short.wav", tmp_path / "long.flac")[3:]
    process = subprocess.Popen(
        [sys.executable, "-c", heed, *flags],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(temporary)},
    )  # fmt: skip
    with process:
        try:
            deadline = time.monotonic() + 120
            while not (tmp_path / "out/events/short.tsv").exists() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, errors
    assert errors.rstrip().endswith("interrupted") and "Traceback" not in errors
    assert below(tmp_path / "out") == ["events/short.tsv"] and below(temporary) == []


def test_odd_and_broken_files_of_the_world(checkpoint, shared_dir, tmp_path):
    """Each is done, with numbers alone, or refused in one line."""
    folder = shared_dir / "audio_formats"
    with open(folder / "INDEX.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    (tmp_path / "list.txt").write_text("".join(f"{folder / row['file']}\n" for row in rows))
    done = subprocess.run(
        command(checkpoint, f"--out={tmp_path / 'out'}", "--write=npz,json,events,scores", tmp_path / "list.txt"),
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert all(line.startswith(("refused: ", "predicting ")) for line in done.stderr.splitlines()), done.stderr
    assert "Traceback" not in done.stdout
    entries = {entry["recording"]: entry for entry in read(tmp_path / "out/summary.json")["recordings"]}
    assert set(entries) == {pathlib.PurePath(row["file"]).name for row in rows}
    for row in rows:
        entry, known = entries[pathlib.PurePath(row["file"]).name], row["libsndfile"] or "ERR"
        if known.startswith("ERR") and "/int64" in (row["scipy"] or ""):
            known = row["scipy"]  # integers of more than 32 bits
        readable = not known.startswith("ERR") and known.split("/")[2] != "0"
        assert ("refused" not in entry) == readable, entry
        if readable:
            rate, _, samples, _ = known.split("/")
            assert entry["duration_s"] == pytest.approx(int(samples) / int(rate), abs=1 / small.RATE)
        else:
            assert entry["refused"] and "\n" not in entry["refused"]
    good = [entry for entry in entries.values() if "refused" not in entry]
    arrays = sorted((tmp_path / "out/npz").glob("*.npz"))
    assert len(arrays) == len(good) and 0 < len(good) < len(rows)
    for file in arrays:
        with np.load(file, allow_pickle=False) as held:
            for name in ("scene", "window_scenes", "frame_scores"):
                assert np.isfinite(held[name]).all() and held[name].size
    for kind in ("json", "events", "scores"):
        assert len(list((tmp_path / "out" / kind).iterdir())) == len(good)
