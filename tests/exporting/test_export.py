"""An exported model scores as the model itself does, from the waveform on; its card says what is known, and its example runs."""

import dataclasses
import functools
import json
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
import scipy.signal
import soundfile
from ml_collections import FrozenConfigDict

import mfl_jax
from mfl_jax import export
from mfl_jax.data import mel_spectrogram
from mfl_jax.data.mel_spectrogram import MelConfig
from mfl_jax.data.prepared_dataset import Dataset
from mfl_jax.errors import InputError
from mfl_jax.exporting import log_mel_in_jax, model_card
from mfl_jax.inference import trained_model
from mfl_jax.scoring import evaluate_run
from mfl_jax.training import loop, setup
from support.small import AUDIO, RATE, small_config, small_dataset

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("flatbuffers")

from support import ROOT  # noqa: E402

pytestmark = pytest.mark.lightly_optimised

MEL = MelConfig(**{key: value for key, value in AUDIO.items() if key != "clip_s"})
SAMPLES, FRAMES = RATE, 50
FORMS = ("onnx", "stablehlo")
BOTH = ("scene", "event")


@functools.cache
def built(*, tasks=BOTH, scenes=3, events=4, seed=0, **fields):
    """A network with random parameters and statistics, negative gains and biases among them."""
    config = small_config(pathlib.Path(), tasks=tasks, **fields)
    dataset = Dataset(
        directory=pathlib.Path("nowhere"), scenes=tuple("abc"[:scenes]), events=tuple("vwxyz"[:events]), mel=MEL,
        clip_frames=FRAMES, clips={}, fingerprint="",
    )  # fmt: skip
    graphdef, state = setup.initial_state(config, dataset)
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda a: np.array(a + rng.normal(0, 0.3, a.shape), np.float32), state.params)
    for block in params["shared"].values():
        block["norm"]["scale"] *= rng.choice(np.float32([-1, 1]), block["norm"]["scale"].shape)
    return trained_model.TrainedModel(
        directory=dataset.directory,
        step=0,
        which="last",
        config=FrozenConfigDict(config),
        scenes=dataset.scenes if "scene" in tasks else (),
        events=dataset.events if "event" in tasks else (),
        fingerprint=dataset.fingerprint,
        mel=MEL,
        clip_frames=FRAMES,
        graphdef=graphdef,
        params=params,
        batch_stats=jax.tree.map(lambda a: np.float32(a + rng.uniform(0, 0.5, a.shape)), state.batch_stats),
        feature_stats={"mean": np.linspace(-9, -7, 32, dtype=np.float32), "std": np.linspace(3, 4, 32, dtype=np.float32)},
    )


def sounds():
    """Clips of noise, a tone, silence, a full-scale square wave, and shorter ones, each with its valid samples."""
    rng = np.random.default_rng(1)
    t = np.arange(SAMPLES) / RATE
    noise = 0.1 * rng.standard_normal(SAMPLES)
    whole = [noise, 0.3 * np.sin(2 * np.pi * 440 * t), np.zeros(SAMPLES), np.sign(np.sin(2 * np.pi * 100 * t + 0.1))]
    short = [1, MEL.hop_samples, MEL.hop_samples + 1, SAMPLES // 2, SAMPLES - 1]
    valid = np.asarray([SAMPLES] * len(whole) + short, np.int32)
    clips = np.stack(whole + [0.9 * noise * (np.arange(SAMPLES) < samples) for samples in short]).astype(np.float32)
    return clips, valid


def assert_scores_as(model, made, clips, valid, tolerance=1e-4):
    assert set(made) == {f"{task}_probabilities" for task in model.config.tasks}
    for number, (clip, samples) in enumerate(zip(clips, valid, strict=True)):
        scene, event = model(mel_spectrogram.compute_log_mel(clip[:samples], model.mel))
        if scene is not None:
            np.testing.assert_allclose(made["scene_probabilities"][number], scene, rtol=0, atol=tolerance, err_msg=str(number))
        if event is not None:
            given = made["event_probabilities"][number]
            assert given.shape == (FRAMES, len(model.events))
            np.testing.assert_allclose(given[: len(event)], event, rtol=0, atol=tolerance, err_msg=str(number))


@pytest.mark.parametrize(("window", "fft", "hop"), [(320, 512, 160), (321, 512, 100), (7, 8, 3), (2, 16, 2), (64, 64, 64)])
def test_the_fourier_bases_are_a_windowed_transform(window, fft, hop):
    mel = MelConfig(8000, window, hop, fft, 2, 0, 4000)
    x = np.random.default_rng(0).normal(size=window)
    n = np.arange(1, window // 2 + 1)
    cosines, sines = log_mel_in_jax.fourier_bases(mel)
    power = np.square((x[-n] + x[n]) @ cosines) + np.square((x[-n] - x[n]) @ sines)
    expected = np.abs(np.fft.rfft(x * scipy.signal.get_window("hann", window), fft)) ** 2
    np.testing.assert_allclose(power, expected, rtol=1e-4, atol=1e-6 * expected.max())


@pytest.mark.parametrize(("window", "hop"), [(320, 160), (321, 160), (320, 161), (161, 161), (512, 20)])
def test_the_spectrogram_is_that_of_features(window, hop):
    mel = MelConfig(RATE, window, hop, 512, 16, 100.0, 3900.0)
    clips = sounds()[0][:, : hop * 20]
    got = np.asarray(jax.jit(lambda waveform: log_mel_in_jax.log_mel(waveform, mel))(clips))
    expected = np.stack([mel_spectrogram.compute_log_mel(clip, mel) for clip in clips])
    assert got.shape == expected.shape == (len(clips), 20, 16)
    # Compared as powers: 110 dB below a tone, both transforms show no more than how they round.
    got, expected = np.exp(np.float64(got)), np.exp(np.float64(expected))
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-11 * expected.max())


MODELS = {
    "both": {},
    "scene": {"tasks": ("scene",)},
    "event": {"tasks": ("event",)},
    "one scene, one event": {"scenes": 1, "events": 1},
    "wide": {"channels": 32},  # the model itself then takes other convolutions on a CPU
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", MODELS)
def test_an_exported_model_scores_as_the_model_itself(form, name):
    model = built(**MODELS[name])
    clips, valid = sounds()
    made = export.run_program(export.load_program(model, form), form, clips, valid)
    assert_scores_as(model, made, clips, valid)
    # The clips are told apart, or else equality would show little.
    assert all(np.ptp(value, axis=0).max() > 0.01 for value in made.values()) or name.startswith("one")


@pytest.mark.parametrize("form", FORMS)
def test_one_program_takes_any_number_of_clips_and_reads_valid_samples_only(form):
    model = built()
    program = export.load_program(model, form)
    clips, valid = sounds()
    spoilt = clips.copy()
    for clip, samples in zip(spoilt, valid, strict=True):
        clip[samples:] = np.nan
    for part in (slice(3), slice(3, 4), slice(4, 9)):
        assert_scores_as(model, export.run_program(program, form, spoilt[part], valid[part]), clips[part], valid[part])


def test_the_difference_is_measured():
    assert export.largest_difference(built(), export.load_program(built(), "onnx"), "onnx") < 1e-4
    assert export.largest_difference(built(), export.load_program(built(seed=2), "onnx"), "onnx") > 0.01


def test_what_the_onnx_file_holds():
    program = onnx.load_model_from_string(export.load_program(built(), "onnx"))
    onnx.checker.check_model(program, full_check=True)
    operators = [node.op_type for node in program.graph.node]
    assert operators.count("GRU") == 1 and not {"Loop", "Scan"} & set(operators)
    session = onnxruntime.InferenceSession(program.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        ("waveform", "tensor(float)", ["clips", SAMPLES]),
        ("valid_samples", "tensor(int32)", ["clips"]),
    ]
    assert [(o.name, o.type, o.shape) for o in session.get_outputs()] == [
        ("scene_probabilities", "tensor(float)", ["clips", 3]),
        ("event_probabilities", "tensor(float)", ["clips", FRAMES, 4]),
    ]
    about = json.loads(session.get_modelmeta().custom_metadata_map["model.json"])
    assert about["events"] == list("vwxy") and about["sample_rate_hz"] == RATE


def test_what_the_stablehlo_file_holds():
    program = jax.export.deserialize(bytearray(export.stablehlo(built())))
    assert program.platforms == ("cpu", "cuda", "tpu")
    assert str(program.in_avals[0].shape) == f"(clips, {SAMPLES})" and str(program.in_avals[1].shape) == "(clips,)"


@pytest.mark.parametrize("form", FORMS)
def test_a_model_of_bfloat16(form):
    model = built(compute="bfloat16")
    clips, valid = sounds()
    assert_scores_as(model, export.run_program(export.load_program(model, form), form, clips, valid), clips, valid, tolerance=0.1)
    says = model_card._limits(model, form)
    assert ("bfloat16" in says) == (form == "onnx")


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """The work directory of a small run that was trained and scored."""
    tmp = tmp_path_factory.mktemp("export")
    dataset = small_dataset(tmp, development=4, evaluation=2)
    config = small_config(tmp, epochs=1)
    assert loop.train(config, dataset, tmp / "run")
    evaluate_run.evaluate_run(config, dataset, tmp / "run")
    return tmp / "run"


@pytest.mark.parametrize("form", FORMS)
def test_the_folder_of_an_exported_model_and_the_example_in_its_card(form, small_run, tmp_path, monkeypatch, capsys):
    folder = export.export_model(small_run, form, tmp_path)
    assert folder == tmp_path
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["README.md", "model.json", export.FILES[form]])
    model = mfl_jax.load(small_run)
    about = json.loads((tmp_path / "model.json").read_text())
    assert about["largest_difference"] < 1e-4
    assert about["file"] == export.FILES[form] and about["checkpoint"] == {"which": "last", "step": model.step}
    assert (about["clip_samples"], about["clip_s"], about["hop_s"], about["window_s"]) == (SAMPLES, 1.0, 0.02, 0.04)
    # Every answer of the example is the model's own.
    wave = 0.1 * np.random.default_rng(5).standard_normal((6000, 2)).astype(np.float32)
    soundfile.write(tmp_path / "recording.wav", wave, RATE, subtype="FLOAT")
    (example,) = re.findall(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    made = {}
    exec(example, made)
    scene, event = model(mel_spectrogram.compute_log_mel(wave.mean(1), model.mel))
    np.testing.assert_allclose(np.asarray(made["scores"]["scene_probabilities"])[0], scene, rtol=0, atol=1e-4)
    np.testing.assert_allclose(made["frames"], event, rtol=0, atol=1e-4)
    assert made["frames"].shape == (38, 2)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == model.scenes[scene.argmax()] and "'high'" in printed[1] and len(printed) == 2


def test_the_card_says_what_was_measured_and_of_which_checkpoint(small_run, tmp_path):
    model = mfl_jax.load(small_run)
    results = json.loads((small_run / "results.json").read_text())
    assert model_card.read_results(model) == results
    card = model_card.model_card(model, results, "onnx")
    assert f"| **event: this model** | {results['event']['micro_f']:.2f} | {results['event']['macro_f']:.2f} |" in card
    floor = results["floors"]["scene"]["majority"]
    assert f"| scene: always the most frequent scene | {floor['micro_f']:.2f} | {floor['macro_f']:.2f} |" in card
    assert results["fingerprint"] in card and "annotated_audio/small" in card and "| epochs of the config, seed | 1, 0 |" in card
    assert max(map(len, re.findall(r"^#.*$", card, re.MULTILINE))) < 60 and "\n\n## Licence\n\n" in card
    unscored = model_card.model_card(model, None, "onnx")
    assert "None were measured" in unscored and "this model**" not in unscored


@pytest.mark.parametrize(
    ("results", "expected"),
    [(None, None), ({"checkpoint": {"which": "last", "step": 0}}, None), ({"checkpoint": {"which": "best", "step": 7}}, None)],
)
def test_scores_of_another_checkpoint_are_not_taken(results, expected, tmp_path):
    model = dataclasses.replace(built(), directory=tmp_path, step=7)
    if results is not None:
        (tmp_path / "results.json").write_text(json.dumps(results))
    assert model_card.read_results(model) is expected


@pytest.mark.parametrize("text", ["{", "[]", '{"checkpoint": 3}', "{}"])
def test_results_that_are_none(text, tmp_path):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(InputError, match=r"results\.json: not the results of a run"):
        model_card.read_results(dataclasses.replace(built(), directory=tmp_path))


@pytest.mark.parametrize(
    ("dataset", "says"),
    [
        ("tut_scenes_events/full", "non-commercial scientific use"),
        ("soundscapes/quick", "synthesised by mfl_jax itself"),
        ("annotated_audio/mine", "of the person who trained"),
    ],
)
def test_the_licence_is_that_of_the_data(dataset, says):
    card = model_card._limits(built(dataset=dataset), "onnx")
    assert says in card and "is for you to check" in card
    assert sum(licence in card for licence in model_card.LICENCES.values()) == 1


@pytest.mark.parametrize(("form", "package"), [("onnx", "onnx"), ("onnx", "onnxruntime"), ("stablehlo", "flatbuffers")])
def test_a_missing_package_is_named_and_nothing_is_written(form, package, small_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"{package}, which is not installed: pip install -e '\.\[onnx\]'$"):
        export.export_model(small_run, form, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_can_not_be_written_to(small_run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/out: not a folder to write to"):
        export.export_model(small_run, "onnx", tmp_path / "file" / "out")


def test_a_difference_that_is_large_is_told(small_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export, "largest_difference", lambda *_: 0.25)
    export.export_model(small_run, "onnx", tmp_path)
    assert "warning: the probabilities of the exported model differ from its own by up to 0.25" in capsys.readouterr().err


def call(*flags):
    done = subprocess.run([sys.executable, "-m", "mfl_jax.export", *flags], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_the_command_writes_into_the_folder_of_the_run(small_run):
    status, said, errors = call(f"--checkpoint={small_run}")
    assert status == 0 and not errors, errors
    assert "model.onnx" in said and (small_run / "export" / "onnx" / "model.onnx").is_file()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "--checkpoint=FOLDER is missing"),
        (["--checkpoint=nowhere"], "nowhere: no trained run"),
        (["--checkpoint=x", "--format=pdf"], "pdf"),
        (["--checkpoint=x", "--fromat=onnx"], "fromat"),
        (["--checkpoint=x", "more"], "unexpected: more"),
    ],
)
def test_a_mistake_is_one_line(flags, says):
    status, said, errors = call(*flags)
    assert status == 2 and not said
    assert errors.startswith("error: ") and errors.count("\n") == 1 and says in errors


def test_help_says_what_there_is():
    _, said, errors = call("--help")
    assert "--checkpoint" in said and "--format" in said and "Traceback" not in errors
