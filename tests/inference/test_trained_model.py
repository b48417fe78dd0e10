"""A trained model from its checkpoint: what opens one, what it says, and that it needs nothing else."""

import dataclasses
import functools
import json
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

import mfl_jax
from mfl_jax.data import prepared_dataset
from mfl_jax.errors import InputError
from mfl_jax.inference import trained_model
from mfl_jax.network import forward
from mfl_jax.runtime import workdir_config
from mfl_jax.training import setup
from mfl_jax.training.checkpoints import Checkpoints
from support.small import merged, small_config

pytestmark = pytest.mark.lightly_optimised

FRAMES, BINS, HIDDEN = 50, 32, 4


@pytest.fixture(scope="module")
def dataset(trained_run):
    return prepared_dataset.open_dataset("annotated_audio/small", trained_run[1] / "data")


@pytest.fixture(scope="module")
def model(trained_run):
    return mfl_jax.load(trained_run[0])


@pytest.fixture(scope="module")
def log_mel(dataset):
    """Whole clips [5, T, M] of the evaluation split."""
    everything = dataset.read("evaluation").take(np.arange(12))
    return everything["log_mel"][everything["valid_frames"] == FRAMES][:5]


def random_state(config, dataset, number, seed):
    """A state as after `number` steps, with parameters and statistics that are far from where training starts."""
    rng = np.random.default_rng(seed)
    graphdef, state = setup.initial_state(config, dataset)

    def moved(value):
        return np.asarray(value) + rng.normal(0, 0.3, np.shape(value)).astype(np.float32)

    params = jax.tree.map(moved, state.params)
    batch_stats = jax.tree.map(lambda value: np.abs(moved(value)) + np.float32(0.1), state.batch_stats)
    stats = {"mean": np.linspace(-9, -3, BINS, dtype=np.float32), "std": np.linspace(1, 3, BINS, dtype=np.float32)}
    changed = {"step": np.int32(number), "params": params, "batch_stats": batch_stats, "feature_stats": stats}
    return graphdef, dataclasses.replace(state, **changed)


def saved(workdir, dataset, *numbers, folder="checkpoints", seed=0, **fields):
    """Writes checkpoints of random networks, as training would; returns structure and state of the last."""
    config = small_config(pathlib.Path("elsewhere"), **fields)
    workdir_config.claim_workdir(workdir, config)
    with Checkpoints(workdir / folder, keep=2) as checkpoints:
        for number in numbers:
            graphdef, state = random_state(config, dataset, number, seed + number)
            checkpoints.save(state, {**setup.checkpoint_metadata(config, dataset), "epoch": 1})
            checkpoints.wait()
    return graphdef, state


@functools.partial(jax.jit, static_argnames="graphdef")
def logits(params, batch_stats, feature_stats, batch, graphdef):
    """By way of the training code."""
    return forward.apply_network(params, batch_stats, feature_stats, batch, graphdef=graphdef, train=False)[0]


def batch_of(log_mel):
    """Clips [B, T, M] padded to the length of a clip."""
    clips, frames, _ = log_mel.shape
    padded = np.pad(log_mel, ((0, 0), (0, FRAMES - frames), (0, 0)))
    return {"log_mel": padded, "valid_frames": np.full(clips, frames), "clip_mask": np.ones(clips, bool)}


def logits_of(model, log_mel):
    """Of clips [B, T, M]."""
    found = logits(model.params, model.batch_stats, model.feature_stats, batch_of(log_mel), model.graphdef)
    return tuple(None if of_task is None else np.asarray(of_task, np.float64) for of_task in found)


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def assert_same_model(one, other):
    assert (one.step, one.scenes, one.events, one.mel, one.config) == (
        other.step,
        other.scenes,
        other.events,
        other.mel,
        other.config,
    )
    for name in ("params", "batch_stats", "feature_stats"):
        jax.tree.map(np.testing.assert_array_equal, getattr(one, name), getattr(other, name))


def refusal(path, **arguments):
    with pytest.raises(InputError) as refused:
        mfl_jax.load(path, **arguments)
    said = str(refused.value)
    assert said and "\n" not in said and str(pathlib.Path(path).name) in said
    return said


# Opening.


def test_a_run_is_opened_by_any_of_its_folders(trained_run, model, monkeypatch):
    workdir = trained_run[0]
    assert (model.step, model.which, model.clip_frames) == (15, "last", FRAMES)
    assert (model.scenes, model.events) == (("busy", "calm"), ("high", "low"))
    assert model.config.channels == 4 and model.config.audio.clip_s == 1.0 and model.mel.mel_bins == BINS
    checkpoints = workdir / "checkpoints"
    monkeypatch.chdir(workdir.parent)
    monkeypatch.setenv("HOME", str(workdir.parent))
    for path in (str(workdir), f"{workdir}/", checkpoints, checkpoints / "15", f"{checkpoints}/15/", "run", "~/run"):
        opened = mfl_jax.load(path)
        assert_same_model(opened, model)
        assert opened.directory == workdir and opened.which == "last"
    earlier = mfl_jax.load(workdir, step=10)
    assert earlier.step == mfl_jax.load(checkpoints / "10").step == 10
    assert_same_model(earlier, mfl_jax.load(checkpoints / "10"))
    assert not np.array_equal(earlier.params["scene"]["output"]["kernel"], model.params["scene"]["output"]["kernel"])


def test_the_best_checkpoint_counts_where_there_is_one(dataset, tmp_path):
    saved(tmp_path / "run", dataset, 10, 20)
    _, best = saved(tmp_path / "run", dataset, 10, folder="best", seed=99)
    for path in ("run", "run/best", "run/best/10"):
        opened = mfl_jax.load(tmp_path / path)
        assert (opened.which, opened.step, opened.directory) == ("best", 10, tmp_path / "run")
        jax.tree.map(np.testing.assert_array_equal, opened.params, best.params)
    for path, number in (("run/checkpoints", 20), ("run/checkpoints/10", 10)):
        opened = mfl_jax.load(tmp_path / path)
        assert (opened.which, opened.step) == ("last", number)
        assert not np.array_equal(opened.params["scene"]["output"]["kernel"], best.params["scene"]["output"]["kernel"])
    assert "no checkpoint of step 20; available: 10" in refusal(tmp_path / "run", step=20)


@pytest.mark.parametrize("name", ["best", "checkpoints", "15"])
def test_a_run_may_have_any_name(dataset, tmp_path, name):
    saved(tmp_path / name, dataset, 5)
    assert mfl_jax.load(tmp_path / name).directory == tmp_path / name
    assert mfl_jax.load(tmp_path / name / "checkpoints").directory == tmp_path / name


def test_what_is_no_run_is_refused(trained_run, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "begun" / "checkpoints").mkdir(parents=True)
    (tmp_path / "stopped" / "best").mkdir(parents=True)
    for name in ("missing", "empty", "file"):
        assert "no trained run" in refusal(tmp_path / name)
    assert "no trained run" in refusal(trained_run[1] / "recordings")
    for name in ("begun", "stopped", "begun/checkpoints", "stopped/best"):
        assert "no checkpoint yet" in refusal(tmp_path / name)
    assert "no checkpoint of step 7; available: none" in refusal(tmp_path / "begun", step=7)
    assert "no checkpoint of step 7; available: 15, 10" in refusal(trained_run[0], step=7)
    assert "no checkpoint of step 7; available: 15, 10" in refusal(trained_run[0] / "checkpoints" / "7")
    assert not (tmp_path / "missing").exists() and not list((tmp_path / "empty").iterdir())


def cut_short(checkpoint):
    """The largest file of a checkpoint ends in the middle."""
    files = sorted((file for file in checkpoint.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    files[-1].write_bytes(files[-1].read_bytes()[: files[-1].stat().st_size // 2])


def without_state(checkpoint):
    shutil.rmtree(checkpoint / "state")


def without_about(checkpoint):
    (checkpoint / "about" / "metadata").write_text('{"config": {')


def changed(checkpoint):
    """What the checkpoint says of itself is whole, and does not fit its arrays."""
    file = checkpoint / "about" / "metadata"
    about = json.loads(file.read_text())
    about["sha256"]["params/scene/output/bias"] = "0" * 64
    file.write_text(json.dumps(about))


@pytest.mark.parametrize("spoil", [cut_short, without_state, without_about, changed])
def test_a_broken_checkpoint_is_passed_over_for_the_one_before(trained_run, tmp_path, capsys, spoil):
    workdir = shutil.copytree(trained_run[0], tmp_path / "run")
    before = mfl_jax.load(workdir, step=10)
    capsys.readouterr()
    spoil(workdir / "checkpoints" / "15")
    opened = mfl_jax.load(workdir)
    said = capsys.readouterr().err
    assert said.startswith("warning: ") and said.count("\n") == 1 and "checkpoints/15: damaged checkpoint" in said
    assert_same_model(opened, before)
    spoil(workdir / "checkpoints" / "10")
    for path in (workdir, workdir / "checkpoints"):
        with pytest.raises(InputError, match=r"checkpoints: all checkpoints are damaged; .*delete.*$"):
            mfl_jax.load(path)


def test_a_broken_checkpoint_does_not_speak_for_the_others(trained_run, tmp_path):
    workdir = shutil.copytree(trained_run[0], tmp_path / "run")
    cut_short(workdir / "checkpoints" / "15")
    with pytest.raises(InputError) as refused:
        mfl_jax.load(workdir, step=15)
    said = str(refused.value)
    assert "15" in said and "all checkpoints" not in said and "delete" not in said


def test_loading_changes_nothing(trained_run, tmp_path):
    workdir = shutil.copytree(trained_run[0], tmp_path / "run")
    (workdir / "checkpoints" / "notes.txt").write_text("no checkpoint")
    (workdir / "checkpoints" / "20.orbax-checkpoint-tmp").mkdir()  # a save that was killed

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
late = {"tensorflow", "mfl_jax.data.builder", "mfl_jax.data.prepare", "datasets"} & set(sys.modules)
print(json.dumps([sorted(early), sorted(late), len(jax.devices())]))
"""


def test_a_copied_run_is_enough_anywhere(trained_run, model, log_mel, tmp_path):
    """In another process, on one device, in another folder, without data, builders or TensorFlow; `import mfl_jax` is light."""
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


def test_a_state_of_many_devices_is_loaded_onto_one(dataset, tmp_path, log_mel):
    """What lies on all eight devices is saved once, and comes back as arrays of the host."""
    config = small_config(tmp_path)
    _, state = random_state(config, dataset, 5, seed=3)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("device",))
    spread = jax.device_put(state, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    with Checkpoints(tmp_path / "run" / "checkpoints", keep=2) as checkpoints:
        checkpoints.save(spread, {**setup.checkpoint_metadata(config, dataset), "epoch": 1})
    opened = mfl_jax.load(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, opened.params, state.params)
    scene, event = opened.probabilities(batch_of(log_mel))
    assert len(scene.devices()) == len(event.devices()) == 1


@pytest.mark.parametrize("task", ["scene", "event"])
def test_a_run_of_one_task(dataset, tmp_path, log_mel, task):
    saved(tmp_path / "run", dataset, 5, tasks=(task,))
    opened = mfl_jax.load(tmp_path / "run")
    assert opened.scenes == (("busy", "calm") if task == "scene" else ())
    assert opened.events == (("high", "low") if task == "event" else ())
    scene, event = opened(log_mel)
    embedded = opened.embeddings(log_mel)
    assert embedded.keys() == {"shared", task}
    of_scene, of_event = logits_of(opened, log_mel)
    if task == "scene":
        assert event is None and scene.shape == (5, 2)
        np.testing.assert_allclose(scene, softmax(of_scene), atol=1e-5)
        with pytest.raises(ValueError, match=r"unknown class 'low'; the model knows busy, calm"):
            opened.sensitivity(log_mel[0], "low")
        assert opened.sensitivity(log_mel[0], "calm").shape == (FRAMES, BINS)
    else:
        assert scene is None and event.shape == (5, FRAMES, 2)
        np.testing.assert_allclose(event, sigmoid(of_event), atol=1e-5)
        assert opened.sensitivity(log_mel[0], "low").shape == (FRAMES, BINS)
    assert opened(log_mel[0, :9])[0 if task == "scene" else 1].shape == ((2,) if task == "scene" else (9, 2))


def test_weights_learned_by_uncertainty_are_no_part_of_the_network(dataset, tmp_path, log_mel):
    graphdef, state = saved(tmp_path / "run", dataset, 5, balance="uncertainty")
    assert "log_variances" in state.params
    opened = mfl_jax.load(tmp_path / "run")
    assert opened.params.keys() == {"shared", "scene", "event"}
    params = {name: state.params[name] for name in opened.params}
    of_scene, of_event = logits(params, state.batch_stats, state.feature_stats, batch_of(log_mel), graphdef)
    scene, event = opened(log_mel)
    np.testing.assert_allclose(scene, softmax(np.asarray(of_scene)), atol=1e-5)
    np.testing.assert_allclose(event, sigmoid(np.asarray(of_event)), atol=1e-5)


def test_dropout_is_off_and_bfloat16_gives_float32(dataset, tmp_path, log_mel):
    saved(tmp_path / "dropout", dataset, 5, dropout=0.5)
    dropping = mfl_jax.load(tmp_path / "dropout")
    saved(tmp_path / "half", dataset, 5, compute="bfloat16")
    half = mfl_jax.load(tmp_path / "half")
    jax.tree.map(np.testing.assert_array_equal, half.params, dropping.params)
    expected, got = dropping(log_mel), half(log_mel)
    np.testing.assert_array_equal(dropping(log_mel)[1], expected[1])
    for one, other in zip(expected, got, strict=True):
        assert one.dtype == other.dtype == np.float32
        np.testing.assert_allclose(other, one, atol=0.05)
        assert not np.array_equal(one, other)
    assert all(value.dtype == np.float32 for value in half.embeddings(log_mel).values())


# Calling.


def test_scores_are_those_of_the_training_code(model, log_mel):
    scene, event = model(log_mel)
    of_scene, of_event = logits_of(model, log_mel)
    assert scene.dtype == event.dtype == np.float32 and scene.shape == (5, 2) and event.shape == (5, FRAMES, 2)
    np.testing.assert_allclose(scene, softmax(of_scene), atol=1e-5)
    np.testing.assert_allclose(event, sigmoid(of_event), atol=1e-5)
    np.testing.assert_allclose(scene.sum(1), 1, atol=1e-6)
    assert ((event > 0) & (event < 1)).all() and event.std() > 0.01
    assert isinstance(scene, np.ndarray) and isinstance(event, np.ndarray)


@pytest.mark.parametrize("frames", [1, 7, 24, 25, 49, 50])
def test_a_clip_by_itself_scores_as_among_others(model, log_mel, frames):
    """Of any length: what pads it is the mean, and its scores are cut off."""
    part = log_mel[:, :frames]
    of_scene, of_event = logits_of(model, part)
    scene, event = model(part)
    assert event.shape == (5, frames, 2)
    np.testing.assert_allclose(scene, softmax(of_scene), atol=1e-5)
    np.testing.assert_allclose(event, sigmoid(of_event)[:, :frames], atol=1e-5)
    one_scene, one_event = model(part[3])
    assert one_scene.shape == (2,) and one_event.shape == (frames, 2)
    np.testing.assert_allclose(one_scene, scene[3], atol=1e-5)
    np.testing.assert_allclose(one_event, event[3], atol=1e-5)


@pytest.mark.parametrize("clips", [1, 2, 3, 4, 5, 6, 9])
def test_any_number_of_clips_scores_alike(model, log_mel, clips):
    """A CPU takes four at a time through the network."""
    expected = model(log_mel)
    scene, event = model(np.resize(log_mel, (clips, FRAMES, BINS)))
    for number in range(clips):
        np.testing.assert_allclose(scene[number], expected[0][number % 5], atol=1e-5)
        np.testing.assert_allclose(event[number], expected[1][number % 5], atol=1e-5)


def test_lists_jax_arrays_and_float64_are_spectrograms_too(model, log_mel):
    expected = model(log_mel[0])
    for given in (log_mel[0].tolist(), jax.numpy.asarray(log_mel[0]), log_mel[0].astype(np.float64)):
        for one, other in zip(model(given), expected, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "shape",
    [
        (BINS,),
        (),
        (0, BINS),
        (FRAMES, BINS + 1),
        (BINS, FRAMES),
        (51, BINS),
        (2, 51, BINS),
        (2, 0, BINS),
        (0, FRAMES, BINS),
        (1, 2, 3, BINS),
    ],
)
def test_other_shapes_are_refused(model, shape):
    for call in (model, model.embeddings, lambda log_mel: model.sensitivity(log_mel, "low")):
        with pytest.raises(ValueError, match="with 1 to 50 frames") as refused:
            call(np.zeros(shape, np.float32))
        assert str(shape) in str(refused.value)


# Embeddings.


@pytest.mark.parametrize("frames", [FRAMES, 30, 1])
def test_scores_are_a_linear_layer_on_top_of_embeddings(model, log_mel, frames):
    part = log_mel[:, :frames]
    scene, event = model(part)
    embedded = model.embeddings(part)
    shapes = {"shared": (5, frames, 1, 4), "scene": (5, HIDDEN), "event": (5, frames, HIDDEN)}
    assert {name: value.shape for name, value in embedded.items()} == shapes
    assert all(type(value) is np.ndarray and value.dtype == np.float32 for value in embedded.values())
    of_task = {}
    for task in ("scene", "event"):
        layer = model.params[task]["output"]
        of_task[task] = embedded[task].astype(np.float64) @ layer["kernel"] + layer["bias"]
    np.testing.assert_allclose(softmax(of_task["scene"]), scene, atol=1e-5)
    np.testing.assert_allclose(sigmoid(of_task["event"]), event, atol=1e-5)
    one = model.embeddings(part[2])
    assert {name: value.shape for name, value in one.items()} == {name: shape[1:] for name, shape in shapes.items()}
    for name, value in one.items():
        np.testing.assert_allclose(value, embedded[name][2], atol=1e-4)


# Sensitivity.


def logit_along(model, log_mel, label, mask, amounts):
    """The logit of a label where the deviations under a mask grow by 1 + amount; that of an event in its highest frames."""
    mean = np.asarray(model.feature_stats["mean"])
    moved = np.stack([log_mel + amount * mask * (log_mel - mean) for amount in amounts]).astype(np.float32)
    of_scene, of_event = logits_of(model, moved)
    if label in model.scenes:
        return of_scene[:, model.scenes.index(label)]
    frames, column = len(log_mel), model.events.index(label)
    now = logits_of(model, log_mel[None])[1][0, :frames, column]
    return of_event[:, :frames, column][:, now >= np.quantile(now, 0.9)].mean(1)


@pytest.fixture(scope="module")
def sloping(dataset, tmp_path_factory):
    """A network whose logits depend on much of a clip."""
    workdir = tmp_path_factory.mktemp("slopes") / "run"
    saved(workdir, dataset, 5)
    return mfl_jax.load(workdir)


@pytest.mark.parametrize("frames", [FRAMES, 30])
@pytest.mark.parametrize("label", ["busy", "calm", "high", "low"])
def test_sensitivity_is_the_slope_of_the_logit(sloping, log_mel, label, frames):
    """Against differences of the logit along random masks, and along a stripe of frames and of bins."""
    clip = log_mel[1, :frames]
    sensitivity = sloping.sensitivity(clip, label)
    assert sensitivity.shape == (frames, BINS) and sensitivity.dtype == np.float32 and np.isfinite(sensitivity).all()
    rng = np.random.default_rng(0)
    masks = [rng.random(clip.shape) < share for share in (0.1, 0.3, 0.5, 0.9)] + [np.ones(clip.shape, bool)]
    stripe = np.zeros((2, *clip.shape), bool)
    stripe[0, 5:15], stripe[1, :, 4:12] = True, True
    size = float(np.abs(sensitivity).sum())
    assert size > 1e-3
    for mask in [*masks, *stripe]:
        amount = 1e-3
        low, high = logit_along(sloping, clip, label, mask, (-amount, amount))
        slope = (high - low) / (2 * amount)
        assert sensitivity[mask].sum() == pytest.approx(slope, abs=0.01 * size), mask.mean()


def test_sensitivity_is_that_of_one_clip_and_of_a_known_label(model, log_mel):
    with pytest.raises(ValueError, match="takes one clip"):
        model.sensitivity(log_mel, "low")
    with pytest.raises(ValueError, match="unknown class 'lo'; the model knows busy, calm, high, low"):
        model.sensitivity(log_mel[0], "lo")


def test_where_nothing_deviates_from_the_mean_nothing_has_a_share(sloping, log_mel):
    clip = log_mel[0].copy()
    clip[10:20], clip[:, 7] = np.asarray(sloping.feature_stats["mean"]), np.asarray(sloping.feature_stats["mean"])[7]
    for label in ("busy", "low"):
        sensitivity = sloping.sensitivity(clip, label)
        assert not sensitivity[10:20].any() and not sensitivity[:, 7].any() and sensitivity[30:].any()


# Clips that end before their array does.


def test_what_stands_behind_the_end_is_not_seen(sloping, log_mel):
    """As clips of data sets come: the frames that count, and how many those are."""
    clips = log_mel[:3].copy()
    for number, valid in enumerate((50, 30, 1)):
        clips[number, valid:] = 1e3
    scene, event = sloping(clips, [50, 30, 1])
    embedded = sloping.embeddings(clips, [50, 30, 1])
    assert event.shape == (3, FRAMES, 2)
    for number, valid in enumerate((50, 30, 1)):
        part = clips[number, :valid]
        of_scene, of_event = sloping(part)
        np.testing.assert_allclose(scene[number], of_scene, atol=1e-5)
        np.testing.assert_allclose(event[number, :valid], of_event, atol=1e-5)
        alone = sloping.embeddings(part)
        np.testing.assert_allclose(embedded["scene"][number], alone["scene"], atol=1e-4)
        np.testing.assert_allclose(embedded["event"][number, :valid], alone["event"], atol=1e-4)
        for label in ("calm", "high"):
            whole = sloping.sensitivity(clips[number], label, valid)
            np.testing.assert_allclose(whole[:valid], sloping.sensitivity(part, label), atol=1e-5)
            assert not whole[valid:].any()
    one = sloping(clips[1], 30)
    np.testing.assert_allclose(one[0], scene[1], atol=1e-5)


@pytest.mark.parametrize("valid", [51, -1, [50], [50, 50, 51], [[50, 50, 50, 50]]])
def test_other_ends_are_refused(model, log_mel, valid):
    with pytest.raises(ValueError, match="for each of 3 clips"):
        model(log_mel[:3], valid)


# The whole way.


def test_predict_reads_a_recording(model, trained_run):
    file = trained_run[1] / "recordings" / "audio" / "evaluation_1.wav"
    prediction = model.predict(file)
    assert prediction.recording == "evaluation_1.wav" and prediction.duration_s == pytest.approx(2.6)
    assert prediction.frame_scores.shape == (130, 2) and prediction.overlap == 0.5
    whole = model.predict(str(file), overlap=0)
    clips = prepared_dataset.open_dataset("annotated_audio/small", trained_run[1] / "data").read("evaluation")
    numbers = np.flatnonzero(clips.recording == "audio/evaluation_1.wav")
    taken = clips.take(numbers[np.argsort(clips.clip_start_s[numbers])])
    expected = [model(taken["log_mel"][row, :valid])[1] for row, valid in enumerate(taken["valid_frames"])]
    np.testing.assert_allclose(whole.frame_scores, np.concatenate(expected), atol=1e-5)
    with pytest.raises(InputError, match=r"missing\.wav"):
        model.predict(file.with_name("missing.wav"))


def test_the_function_of_the_package_is_that_of_the_module(trained_run, model):
    assert_same_model(trained_model.load(trained_run[0]), model)
    assert merged(model, step=3).step == 3
