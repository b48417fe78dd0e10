"""Loading a trained model: which paths mean a run, which checkpoint is chosen, and what is refused."""

import json
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

import mfl_jax
from mfl_jax.errors import InputError
from mfl_jax.inference import trained_model
from mfl_jax.training import setup
from mfl_jax.training.checkpoints import Checkpoints
from support.random_checkpoints import random_state, save_random_checkpoints
from support.small import small_config

pytestmark = pytest.mark.lightly_optimised

FRAMES, BINS = 50, 32


def assert_same_model(actual, expected):
    for name in ("step", "scenes", "events", "mel", "config"):
        assert getattr(actual, name) == getattr(expected, name), name
    for name in ("params", "batch_stats", "feature_stats"):
        jax.tree.map(np.testing.assert_array_equal, getattr(actual, name), getattr(expected, name))


def read_refusal(path, **arguments):
    """The message of the error that loading raises."""
    with pytest.raises(InputError) as error:
        mfl_jax.load(path, **arguments)
    message = str(error.value)
    assert message and "\n" not in message and str(pathlib.Path(path).name) in message
    return message


def test_run_is_loaded_from_any_of_its_folders(trained_run, model, monkeypatch):
    workdir = trained_run[0]
    assert (model.step, model.which, model.clip_frames) == (15, "last", FRAMES)
    assert (model.scenes, model.events) == (("busy", "calm"), ("high", "low"))
    assert model.config.channels == 4 and model.config.audio.clip_s == 1.0 and model.mel.mel_bins == BINS
    checkpoints = workdir / "checkpoints"
    monkeypatch.chdir(workdir.parent)
    monkeypatch.setenv("HOME", str(workdir.parent))
    for path in (f"{workdir}/", checkpoints, checkpoints / "15", "run", "~/run"):
        loaded = mfl_jax.load(path)
        assert_same_model(loaded, model)
        assert loaded.directory == workdir and loaded.which == "last"
    earlier = mfl_jax.load(workdir, step=10)
    assert earlier.step == mfl_jax.load(checkpoints / "10").step == 10
    assert_same_model(earlier, mfl_jax.load(checkpoints / "10"))
    assert not np.array_equal(earlier.params["scene"]["output"]["kernel"], model.params["scene"]["output"]["kernel"])


def test_best_checkpoint_is_preferred(dataset, tmp_path):
    save_random_checkpoints(tmp_path / "run", dataset, 10, 20)
    _, best = save_random_checkpoints(tmp_path / "run", dataset, 10, folder="best", seed=99)
    for path in ("run", "run/best", "run/best/10"):
        loaded = mfl_jax.load(tmp_path / path)
        assert (loaded.which, loaded.step, loaded.directory) == ("best", 10, tmp_path / "run")
        jax.tree.map(np.testing.assert_array_equal, loaded.params, best.params)
    for path, number in (("run/checkpoints", 20), ("run/checkpoints/10", 10)):
        loaded = mfl_jax.load(tmp_path / path)
        assert (loaded.which, loaded.step) == ("last", number)
        assert not np.array_equal(loaded.params["scene"]["output"]["kernel"], best.params["scene"]["output"]["kernel"])
    assert "no checkpoint of step 20; available: 10" in read_refusal(tmp_path / "run", step=20)


@pytest.mark.parametrize("name", ["best", "checkpoints", "15"])
def test_run_may_have_any_name(dataset, tmp_path, name):
    save_random_checkpoints(tmp_path / name, dataset, 5)
    assert mfl_jax.load(tmp_path / name).directory == tmp_path / name
    assert mfl_jax.load(tmp_path / name / "checkpoints").directory == tmp_path / name


def test_folders_without_a_run_are_refused(trained_run, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "begun" / "checkpoints").mkdir(parents=True)
    (tmp_path / "stopped" / "best").mkdir(parents=True)
    for name in ("missing", "empty", "file"):
        assert "no trained run" in read_refusal(tmp_path / name)
    assert "no trained run" in read_refusal(trained_run[1] / "recordings")
    for name in ("begun", "stopped", "begun/checkpoints", "stopped/best"):
        assert "no checkpoint yet" in read_refusal(tmp_path / name)
    assert "no checkpoint of step 7; available: none" in read_refusal(tmp_path / "begun", step=7)
    assert "no checkpoint of step 7; available: 15, 10" in read_refusal(trained_run[0], step=7)
    assert "no checkpoint of step 7; available: 15, 10" in read_refusal(trained_run[0] / "checkpoints" / "7")
    assert not (tmp_path / "missing").exists() and not list((tmp_path / "empty").iterdir())


def truncate_arrays(checkpoint):
    """Truncates the largest file of a checkpoint."""
    files = sorted((file for file in checkpoint.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    files[-1].write_bytes(files[-1].read_bytes()[: files[-1].stat().st_size // 2])


def remove_state(checkpoint):
    shutil.rmtree(checkpoint / "state")


def truncate_metadata(checkpoint):
    (checkpoint / "about" / "metadata").write_text('{"config": {')


def change_checksum(checkpoint):
    """Leaves the metadata readable, but not matching the arrays."""
    file = checkpoint / "about" / "metadata"
    about = json.loads(file.read_text())
    about["sha256"]["params/scene/output/bias"] = "0" * 64
    file.write_text(json.dumps(about))


@pytest.mark.parametrize("spoil", [truncate_arrays, remove_state, truncate_metadata, change_checksum])
def test_broken_checkpoint_is_skipped_for_the_previous_one(trained_run, tmp_path, capsys, spoil):
    workdir = shutil.copytree(trained_run[0], tmp_path / "run")
    before = mfl_jax.load(workdir, step=10)
    capsys.readouterr()
    spoil(workdir / "checkpoints" / "15")
    loaded = mfl_jax.load(workdir)
    warning = capsys.readouterr().err
    assert warning.startswith("warning: ") and warning.count("\n") == 1 and "checkpoints/15: damaged checkpoint" in warning
    assert_same_model(loaded, before)
    spoil(workdir / "checkpoints" / "10")
    for path in (workdir, workdir / "checkpoints"):
        with pytest.raises(InputError, match=r"checkpoints: all checkpoints are damaged; .*delete.*$"):
            mfl_jax.load(path)


def test_broken_checkpoint_requested_by_step_does_not_blame_the_others(trained_run, tmp_path):
    workdir = shutil.copytree(trained_run[0], tmp_path / "run")
    truncate_arrays(workdir / "checkpoints" / "15")
    message = read_refusal(workdir, step=15)
    assert "15" in message and "all checkpoints" not in message and "delete" not in message


def test_loading_changes_nothing(trained_run, tmp_path):
    workdir = shutil.copytree(trained_run[0], tmp_path / "run")
    (workdir / "checkpoints" / "notes.txt").write_text("no checkpoint")
    (workdir / "checkpoints" / "20.orbax-checkpoint-tmp").mkdir()  # an interrupted save

    def listing():
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in workdir.rglob("*")}

    before = listing()
    assert mfl_jax.load(workdir).step == 15
    assert listing() == before


ALONE = """
import sys
import mfl_jax
early = {"jax", "numpy", "tensorflow"} & set(sys.modules)
model = mfl_jax.load(sys.argv[1])
import json, jax, numpy
scene, event = model(numpy.load(sys.argv[2]))
numpy.savez(sys.argv[3], scene=scene, event=event)
from mfl_jax import predict
from mfl_jax.inference import find_recordings, output_files, postprocessing, predict_to_files, streaming, writers
late = {
    "tensorflow", "tensorflow_datasets", "grain", "tensorboardX", "torch", "array_record", "matplotlib", "pandas", "librosa",
    "scipy.signal", "mfl_jax.data.builder", "mfl_jax.data.prepare", "mfl_jax.builders", "datasets",
} & set(sys.modules)
print(json.dumps([sorted(early), sorted(late), len(jax.devices())]))
"""


def test_copied_checkpoints_are_enough(trained_run, model, log_mel, tmp_path):
    """In another process, on one device, in another folder, without data and builders; only what is needed is imported."""
    (tmp_path / "apart").mkdir()
    shutil.copytree(trained_run[0] / "checkpoints", tmp_path / "apart" / "copied" / "checkpoints")
    np.save(tmp_path / "log_mel.npy", log_mel)
    command = [sys.executable, "-c", ALONE, tmp_path / "apart" / "copied", tmp_path / "log_mel.npy", tmp_path / "scores.npz"]
    environment = {"JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu", "PATH": "/usr/bin:/bin"}
    cache = jax.config.jax_compilation_cache_dir
    environment |= {"JAX_COMPILATION_CACHE_DIR": str(cache)} if cache else {}
    done = subprocess.run(
        list(map(str, command)), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    early, late, devices = json.loads(done.stdout)
    assert early == late == [] and devices == 1 != len(jax.devices())
    scene, event = model(log_mel)
    with np.load(tmp_path / "scores.npz") as alone:
        np.testing.assert_allclose(alone["scene"], scene, atol=1e-5)
        np.testing.assert_allclose(alone["event"], event, atol=1e-5)


def test_state_of_many_devices_is_loaded_onto_one(dataset, tmp_path, log_mel):
    """State replicated on eight devices is saved once and loaded as arrays of the host."""
    config = small_config(tmp_path)
    _, state = random_state(config, dataset, 5, seed=3)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("device",))
    spread = jax.device_put(state, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    with Checkpoints(tmp_path / "run" / "checkpoints", keep=2) as checkpoints:
        checkpoints.save(spread, {**setup.checkpoint_metadata(config, dataset), "epoch": 1})
    loaded = mfl_jax.load(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, loaded.params, state.params)
    scene, event = loaded.probabilities({"log_mel": log_mel, "valid_frames": np.full(5, FRAMES), "clip_mask": np.ones(5, bool)})
    assert len(scene.devices()) == len(event.devices()) == 1


def test_package_loads_as_the_module_does(trained_run, model):
    assert_same_model(trained_model.load(trained_run[0]), model)
