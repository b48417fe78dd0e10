"""The predict command as a program."""

import csv
import functools
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

import mfl_jax
from support import ROOT, small
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


def command(*arguments):
    return [sys.executable, "-m", "mfl_jax.predict", *map(str, arguments)]


def test_unknown_flag_gives_one_line():
    done = subprocess.run(command("--chekpoint=x", "a.wav"), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and "chekpoint" in done.stderr and done.stderr.count("\n") == 1


def test_standard_input_is_a_recording(checkpoint, audio, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with (audio / "evaluation_0.wav").open("rb") as recording:
        done = subprocess.run(
            command(checkpoint, f"--out={tmp_path / 'out'}", "--write=npz", "-"),
            cwd=ROOT, stdin=recording, capture_output=True, text=True, check=False, env=os.environ | {"TMPDIR": str(temporary)},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list_files(tmp_path / "out") == sorted(["npz/stdin.npz", *OVERVIEW]) and list_files(temporary) == []
    with np.load(tmp_path / "out/npz/stdin.npz", allow_pickle=False) as arrays:
        expected = mfl_jax.load(checkpoint.partition("=")[2]).predict(audio / "evaluation_0.wav")
        np.testing.assert_allclose(arrays["frame_scores"], expected.frame_scores, rtol=0, atol=1e-6)
    assert "Traceback" not in done.stderr and "1 recordings done, 0 refused" in done.stdout


def test_interrupt_keeps_finished_files(checkpoint, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    write_noise(tmp_path / "short.wav", 400)
    with soundfile.SoundFile(tmp_path / "long.flac", "w", small.RATE, 1) as out:
        for _ in range(3):
            out.write(np.zeros(3600 * small.RATE, np.int16))
    # Interrupts are ignored if the tests run in the background, also by the programs that they start.
    code = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "runpy.run_module('mfl_jax.predict', run_name='__main__', alter_sys=True)"
    flags = command(checkpoint, f"--out={tmp_path / 'out'}", "--write=events", tmp_path / "short.wav", tmp_path / "long.flac")[3:]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *flags],
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
    assert "interrupted: 1 recordings are not predicted yet" in errors and "Traceback" not in errors
    assert list_files(tmp_path / "out") == sorted(["events/short.tsv", *OVERVIEW]) and list_files(temporary) == []
    assert read_json(tmp_path / "out/summary.json")["complete"] is False


def test_odd_and_broken_audio_files(checkpoint, shared_dir, tmp_path):
    """Each is either done, with finite scores, or refused in one line."""
    folder = shared_dir / "audio_formats"
    with open(folder / "INDEX.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    (tmp_path / "list.txt").write_text("".join(f"{folder / row['file']}\n" for row in rows))
    done = subprocess.run(
        command(checkpoint, f"--out={tmp_path / 'out'}", "--write=npz,json,events,scores", tmp_path / "list.txt"),
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert all(line.startswith(("refused: ", "warning: ", "predicting ")) for line in done.stderr.splitlines()), done.stderr
    assert "Traceback" not in done.stdout
    entries = {entry["recording"]: entry for entry in read_json(tmp_path / "out/summary.json")["recordings"]}
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
    files = sorted((tmp_path / "out/npz").glob("*.npz"))
    assert len(files) == len(good) and 0 < len(good) < len(rows)
    for file in files:
        with np.load(file, allow_pickle=False) as arrays:
            for name in ("scene", "window_scenes", "frame_scores"):
                assert np.isfinite(arrays[name]).all() and arrays[name].size
    for kind in ("json", "events", "scores"):
        assert len(list((tmp_path / "out" / kind).iterdir())) == len(good)
