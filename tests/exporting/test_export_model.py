"""The folder of an exported model, the example in its card, and the command."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile

import mfl_jax
from mfl_jax.data import mel_spectrogram
from mfl_jax.errors import InputError
from mfl_jax.exporting.formats import FILES
from support import ROOT
from support.examples import load_example
from support.random_model import SAMPLES
from support.small import RATE

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("flatbuffers")

from mfl_jax.exporting import export_model, program

pytestmark = pytest.mark.lightly_optimised


@pytest.mark.parametrize("form", list(FILES))
def test_exported_folder_and_the_example_in_its_card(form, evaluated_run, tmp_path, monkeypatch, capsys):
    folder = export_model.export_model(evaluated_run, form, tmp_path)
    assert folder == tmp_path
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["README.md", "model.json", FILES[form]])
    model = mfl_jax.load(evaluated_run)
    about = json.loads((tmp_path / "model.json").read_text())
    assert about["largest_difference"] < 1e-4
    assert about["file"] == FILES[form] and about["checkpoint"] == {"which": "last", "step": model.step}
    assert (about["clip_samples"], about["clip_s"], about["hop_s"], about["window_s"]) == (SAMPLES, 1.0, 0.02, 0.04)
    # The example gives the model's own scores.
    wave = 0.1 * np.random.default_rng(5).standard_normal((6000, 2)).astype(np.float32)
    soundfile.write(tmp_path / "recording.wav", wave, RATE, subtype="FLOAT")
    (example,) = re.findall(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    names = {}
    exec(example, names)
    scene, event = model(mel_spectrogram.compute_log_mel(wave.mean(1), model.mel))
    np.testing.assert_allclose(np.asarray(names["scores"]["scene_probabilities"])[0], scene, rtol=0, atol=1e-4)
    np.testing.assert_allclose(names["frames"], event, rtol=0, atol=1e-4)
    assert names["frames"].shape == (38, 2)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == model.scenes[scene.argmax()] and "'high'" in printed[1] and len(printed) == 2
    if form == "onnx":
        answer = load_example("serve").Model(tmp_path).predict((tmp_path / "recording.wav").read_bytes())
        assert list(answer["scenes"].values()) == pytest.approx(scene.tolist(), abs=2e-4)
        detected = [(found["label"], found["onset_s"]) for found in answer["events"]]
        starts = np.diff(np.pad(names["frames"] >= model.config.threshold, ((1, 0), (0, 0))).astype(int), axis=0) == 1
        expected = [(model.events[event], round(frame * 0.02, 6)) for frame, event in zip(*np.nonzero(starts), strict=True)]
        assert sorted(detected) == sorted(expected)


@pytest.mark.parametrize(("form", "package"), [("onnx", "onnx"), ("onnx", "onnxruntime"), ("stablehlo", "flatbuffers")])
def test_missing_package_is_named_and_nothing_is_written(form, package, evaluated_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"{package}, which is not installed: pip install -e '\.\[onnx\]'$"):
        export_model.export_model(evaluated_run, form, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unwritable_folder(evaluated_run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/out: cannot be written to"):
        export_model.export_model(evaluated_run, "onnx", tmp_path / "file" / "out")


def test_large_difference_gives_a_warning(evaluated_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(program, "measure_difference", lambda *_: 0.25)
    export_model.export_model(evaluated_run, "onnx", tmp_path)
    assert "warning: probabilities of the exported model differ from the model's by up to 0.25" in capsys.readouterr().err


def run_command(*flags):
    done = subprocess.run([sys.executable, "-m", "mfl_jax.export", *flags], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_command_writes_into_the_folder_of_the_run(evaluated_run, tmp_path):
    run = shutil.copytree(evaluated_run, tmp_path / "run")
    status, printed, errors = run_command(f"--checkpoint={run}")
    assert status == 0 and not errors, errors
    assert "model.onnx" in printed and (run / "export" / "onnx" / "model.onnx").is_file()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--checkpoint=FOLDER is missing"),
        (["--checkpoint=nowhere"], "nowhere: no trained run"),
        (["--checkpoint=x", "--format=pdf"], "pdf"),
        (["--checkpoint=x", "--fromat=onnx"], "fromat"),
        (["--checkpoint=x", "more"], "unexpected: more"),
    ],
)
def test_mistake_gives_one_line(flags, message):
    status, printed, errors = run_command(*flags)
    assert status == 2 and not printed
    assert errors.startswith("error: ") and errors.count("\n") == 1 and message in errors


def test_help_lists_the_flags():
    _, printed, errors = run_command("--help")
    assert "--checkpoint" in printed and "--format" in printed and "Traceback" not in errors
