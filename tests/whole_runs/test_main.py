"""The command mfl_jax.main: flags, configs, and one line per mistake."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from configs import cnn_asc, cnn_bigru_sed, conventional_mtl, default, proposed
from mfl_jax import main
from mfl_jax.data.mel_spectrogram import MelConfig
from mfl_jax.data.prepared_dataset import Dataset
from mfl_jax.errors import InputError
from mfl_jax.training import config_checks, setup
from support import ROOT
from support.fork_server import ForkServer
from support.small import HEADER, small_config, small_dataset, small_flags, write_recordings

pytestmark = pytest.mark.lightly_optimised

SYSTEMS = {"proposed": proposed, "conventional_mtl": conventional_mtl, "cnn_asc": cnn_asc, "cnn_bigru_sed": cnn_bigru_sed}
PAPER = Dataset(
    directory=None, scenes=tuple("abcd"), events=tuple("abcdefghijklmnopqrstuvwxy"), mel=MelConfig(), clip_frames=500, clips={},
    fingerprint="",
)  # fmt: skip


@pytest.fixture(scope="module")
def call():
    """Runs the command in a process of its own; returns its exit status, output and errors."""
    server = ForkServer()

    def call(*flags):
        process = server.run(
            "import runpy, sys; sys.argv = ['mfl_jax.main', *arguments]; runpy.run_module('mfl_jax.main', run_name='__main__')",
            *flags,
        )
        return process.returncode, process.stdout, process.stderr

    yield call
    server.close()


def test_the_command_prepares_trains_and_evaluates(call, tmp_path):
    root = write_recordings(tmp_path / "recordings", development=4, evaluation=2)
    flags = [*small_flags(tmp_path, epochs=2), f"--workdir={tmp_path / 'run'}"]
    status, output, errors = call(*flags, f"--config.manual_dir={root}", "--config.alpha=0.01")
    assert status == 0, errors
    assert "event micro F" in output and "floor" in output and "Traceback" not in errors
    before = json.loads((tmp_path / "run" / "results.json").read_text())
    assert before["system"] == "proposed" and 0 <= before["event"]["micro_f"] <= 100
    (tmp_path / "run" / "results.json").unlink()
    status, output, errors = call(*flags, "--mode=evaluate", "--config.alpha=0.01")
    assert status == 0, errors
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == before
    status, output, errors = call(*flags, "--config.alpha=0.02")
    assert status == 2 and "alpha was 0.01 and is 0.02" in errors and errors.count("\n") == 1


PROPOSED = f"--config={ROOT}/configs/proposed.py"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], "--config=NAME is missing"),
        ([f"--config={ROOT}/configs/none.py"], "none.py: no such config file"),
        ([f"{PROPOSED}:slow"], "error: only `quick` may follow the colon of a config, not 'slow'"),
        ([PROPOSED, "--config.alhpa=1"], "no config field 'alhpa' (did you mean alpha?); "),
        ([PROPOSED, "--config.alpha=much"], "much"),
        ([PROPOSED, "--config.reduction=max"], "config.reduction is 'max'; must be one of mean, sum"),
        ([PROPOSED, "--mode=sing"], "sing"),
        ([PROPOSED, "--nonsense"], "nonsense"),
        ([PROPOSED, "stray"], "stray"),
        ([PROPOSED, "--config.dataset=nothing/full"], "no data set builder 'nothing'"),
    ],
)
def test_a_wrong_flag_is_reported_in_one_line(call, tmp_path, flags, expected):
    status, _, errors = call(*flags, f"--workdir={tmp_path / 'run'}", *(["--config.data_dir=none"] if len(flags) else []))
    assert status != 0 and expected in errors and "Traceback" not in errors
    assert not (tmp_path / "run").exists()


def test_without_prepared_data_the_command_says_how_to_prepare_it(call, tmp_path):
    status, _, errors = call(PROPOSED, f"--config.data_dir={tmp_path}")
    assert status == 2 and "--config.manual_dir=DIR --mode=prepare" in errors and "--config.dataset=soundscapes/full" in errors


def test_a_mistake_in_a_label_list_is_reported_in_one_line(call, tmp_path):
    root = write_recordings(tmp_path / "recordings", development=2, evaluation=2)
    (root / "meta" / "meta_evaluation.txt").write_text(HEADER + "audio/evaluation_0.wav\tcalm\t0,5\t1\thigh\n")
    status, _, errors = call(*small_flags(tmp_path), f"--config.manual_dir={root}", f"--workdir={tmp_path / 'run'}")
    assert status == 2 and errors.count("\n") == 1
    assert (
        "meta_evaluation.txt, row 2: the event_start_time '0,5' is not a number of seconds; write a decimal point, not a comma"
        in errors
    )
    assert not (tmp_path / "run").exists() and not list((tmp_path / "data").rglob("dataset_info.json"))


def test_a_package_for_scores_is_missed_before_anything_is_prepared(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sed_eval", None)
    for mode in ("train", "evaluate"):
        with pytest.raises(InputError, match=r"sed_eval is missing: pip install -e '\.\[eval\]'"):
            main.run(small_config(tmp_path, scores="frame,psds"), tmp_path / "run", mode)
    with pytest.raises(InputError, match="not prepared"):  # which needs no scores
        main.run(small_config(tmp_path, scores="frame,psds"), tmp_path / "run", "prepare")


def test_preparing_does_not_look_at_the_work_directory(tmp_path):
    """Here one of another run, which training would refuse."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text('{"name": "other"}')
    with pytest.raises(InputError, match="not prepared"):
        main.run(small_config(tmp_path), tmp_path / "run", "prepare")


def test_a_broken_recording_is_reported_in_one_line(call, tmp_path):
    root = write_recordings(tmp_path / "recordings", development=2, evaluation=2)
    (root / "audio" / "evaluation_1.wav").write_bytes(b"RIFF and nothing else")
    status, _, errors = call(*small_flags(tmp_path), f"--config.manual_dir={root}", f"--workdir={tmp_path / 'run'}")
    assert status == 2 and "Traceback" not in errors
    assert [line for line in errors.splitlines() if line.startswith("error: ")] == [errors.splitlines()[-1]]
    assert "evaluation_1.wav: not readable as audio" in errors


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("arg", ["", "quick"])
def test_every_config_builds_its_system(name, arg):
    config = SYSTEMS[name].get_config(*([arg] if arg else []))
    config_checks.check_config(config)
    config.devices = 1
    parts = set(setup.build_run(config, PAPER).initial.params) - {"shared"}
    assert parts == set(config.tasks)
    assert config.name == name + ("_quick" if arg else "")
    assert bool(config.note) == bool(arg)


def test_the_systems_differ_as_the_paper_says():
    fields = ("tasks", "alpha", "beta", "eta", "gamma", "zeta")
    configs = {name: tuple(module.get_config()[field] for field in fields) for name, module in SYSTEMS.items()}
    both = ("scene", "event")
    assert configs == {
        "proposed": (both, 0.001, 1.0, 0.5, 1.0, 0.0625),
        "conventional_mtl": (both, 0.001, 1.0, 0.0, 0.0, 0.0),
        "cnn_asc": (("scene",), 1.0, 1.0, 0.0, 0.0, 0.0),
        "cnn_bigru_sed": (("event",), 0.001, 1.0, 0.0, 0.0, 0.0),
    }
    shared = default.get_config()
    assert (shared.learning_rate, shared.batch_size, shared.epochs, shared.threshold, shared.validation) == (
        2e-4,
        64,
        300,
        0.5,
        "none",
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("alpha", -1.0),
        ("eta", float("nan")),
        ("learning_rate", 0.0),
        ("dropout", 1.0),
        ("threshold", 1.0),
        ("reduction", "max"),
        ("validation", "fold5"),
        ("matmul_precision", "exact"),
        ("tasks", ()),
        ("tasks", ("scene", "tag")),
        ("seed", -1),
        ("devices", -1),
    ],
)
def test_an_invalid_value_is_named(field, value):
    config = default.get_config()
    with config.ignore_type():
        config[field] = value
    with pytest.raises(InputError, match=rf"config\.{field} is "):
        config_checks.check_config(config)


@pytest.mark.ci_only
def test_five_steps_of_the_full_network_learn():
    """Table II at full width on the same two clips: the loss falls and stays finite."""
    config = proposed.get_config()
    config.update({"devices": 1, "learning_rate": 1e-3, "matmul_precision": "highest"})
    built = setup.build_run(config, PAPER)
    assert sum(leaf.size for leaf in jax.tree.leaves(built.initial.params)) == 1_249_533
    rng = np.random.default_rng(0)
    batch = {
        "log_mel": rng.standard_normal((2, 500, 64)).astype(np.float32),
        "events": rng.random((2, 500, 25)) < 0.1,
        "scene": np.array([0, 3], np.int32),
        "valid_frames": np.array([500, 321], np.int32),
        "scene_mask": np.ones(2, bool),
        "event_mask": np.ones(2, bool),
        "clip_mask": np.ones(2, bool),
    }
    state, losses = built.initial, []
    for _ in range(5):
        state, loss = built.train_step(state, batch, built.scalars)
        losses.append(float(loss))
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    assert int(state.step) == 5


def test_help_answers_without_loading_jax():
    program = (
        "import sys, mfl_jax.main; print([m for m in ('jax', 'flax', 'librosa', 'tensorflow_datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_evaluation_before_training_is_refused(call, tmp_path):
    small_dataset(tmp_path, development=2, evaluation=2)
    status, _, errors = call(*small_flags(tmp_path), "--mode=evaluate", f"--workdir={tmp_path / 'run'}")
    assert status == 2 and "no checkpoint to evaluate; train first" in errors and errors.count("\n") == 1
