"""A trained model: its scores, embeddings and sensitivity, against the code of the training."""

import functools

import jax
import numpy as np
import pytest

import mfl_jax
from mfl_jax.errors import InputError
from mfl_jax.network import forward
from support.random_checkpoints import save_random_checkpoints

pytestmark = pytest.mark.lightly_optimised

FRAMES, BINS, HIDDEN = 50, 32, 4


@functools.partial(jax.jit, static_argnames="graphdef")
def apply_training_code(params, batch_stats, feature_stats, batch, graphdef):
    """The logits that the training code computes."""
    return forward.apply_network(params, batch_stats, feature_stats, batch, graphdef=graphdef, train=False)[0]


def make_batch(log_mel):
    """Pads clips [B, T, M] to the length that the network takes."""
    clips, frames, _ = log_mel.shape
    padded = np.pad(log_mel, ((0, 0), (0, FRAMES - frames), (0, 0)))
    return {"log_mel": padded, "valid_frames": np.full(clips, frames), "clip_mask": np.ones(clips, bool)}


def compute_logits(model, log_mel):
    """The logits of clips [B, T, M], float64; None for a task that was not trained."""
    by_task = apply_training_code(model.params, model.batch_stats, model.feature_stats, make_batch(log_mel), model.graphdef)
    return tuple(None if values is None else np.asarray(values, np.float64) for values in by_task)


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


@pytest.mark.parametrize("task", ["scene", "event"])
@pytest.mark.ci_only
def test_model_of_one_task(dataset, tmp_path, log_mel, task):
    save_random_checkpoints(tmp_path / "run", dataset, 5, tasks=(task,))
    loaded = mfl_jax.load(tmp_path / "run")
    assert loaded.scenes == (("busy", "calm") if task == "scene" else ())
    assert loaded.events == (("high", "low") if task == "event" else ())
    scene, event = loaded(log_mel)
    embedded = loaded.embeddings(log_mel)
    assert embedded.keys() == {"shared", task}
    scene_logits, event_logits = compute_logits(loaded, log_mel)
    if task == "scene":
        assert event is None and scene.shape == (5, 2)
        np.testing.assert_allclose(scene, softmax(scene_logits), atol=1e-5)
        with pytest.raises(ValueError, match=r"unknown class 'low'; the model knows busy, calm"):
            loaded.sensitivity(log_mel[0], "low")
        assert loaded.sensitivity(log_mel[0], "calm").shape == (FRAMES, BINS)
    else:
        assert scene is None and event.shape == (5, FRAMES, 2)
        np.testing.assert_allclose(event, sigmoid(event_logits), atol=1e-5)
        assert loaded.sensitivity(log_mel[0], "low").shape == (FRAMES, BINS)
    assert loaded(log_mel[0, :9])[0 if task == "scene" else 1].shape == ((2,) if task == "scene" else (9, 2))


def test_learned_loss_weights_are_not_part_of_the_network(dataset, tmp_path, log_mel):
    graphdef, state = save_random_checkpoints(tmp_path / "run", dataset, 5, balance="uncertainty")
    assert "log_variances" in state.params
    loaded = mfl_jax.load(tmp_path / "run")
    assert loaded.params.keys() == {"shared", "scene", "event"}
    params = {name: state.params[name] for name in loaded.params}
    scene_logits, event_logits = apply_training_code(
        params, state.batch_stats, state.feature_stats, make_batch(log_mel), graphdef
    )
    scene, event = loaded(log_mel)
    np.testing.assert_allclose(scene, softmax(np.asarray(scene_logits)), atol=1e-5)
    np.testing.assert_allclose(event, sigmoid(np.asarray(event_logits)), atol=1e-5)


def test_dropout_is_off_and_bfloat16_gives_float32(dataset, tmp_path, log_mel):
    save_random_checkpoints(tmp_path / "dropout", dataset, 5, dropout=0.5)
    with_dropout = mfl_jax.load(tmp_path / "dropout")
    save_random_checkpoints(tmp_path / "half", dataset, 5, compute="bfloat16")
    half = mfl_jax.load(tmp_path / "half")
    jax.tree.map(np.testing.assert_array_equal, half.params, with_dropout.params)
    expected = with_dropout(log_mel)
    np.testing.assert_array_equal(with_dropout(log_mel)[1], expected[1])
    for scores, half_scores in zip(expected, half(log_mel), strict=True):
        assert scores.dtype == half_scores.dtype == np.float32
        np.testing.assert_allclose(half_scores, scores, atol=0.05)
        assert not np.array_equal(scores, half_scores)
    assert all(value.dtype == np.float32 for value in half.embeddings(log_mel).values())


# Calling.


def test_scores_equal_those_of_the_training_code(model, log_mel):
    scene, event = model(log_mel)
    scene_logits, event_logits = compute_logits(model, log_mel)
    assert scene.dtype == event.dtype == np.float32 and scene.shape == (5, 2) and event.shape == (5, FRAMES, 2)
    np.testing.assert_allclose(scene, softmax(scene_logits), atol=1e-5)
    np.testing.assert_allclose(event, sigmoid(event_logits), atol=1e-5)
    np.testing.assert_allclose(scene.sum(1), 1, atol=1e-6)
    assert ((event > 0) & (event < 1)).all() and event.std() > 0.01
    assert isinstance(scene, np.ndarray) and isinstance(event, np.ndarray)


@pytest.mark.parametrize("frames", [1, 7, 24, 25, 49, 50])
def test_single_clip_scores_as_in_a_batch(model, log_mel, frames):
    """For any length: padding is the training mean, and its scores are cut off."""
    part = log_mel[:, :frames]
    scene_logits, event_logits = compute_logits(model, part)
    scene, event = model(part)
    assert event.shape == (5, frames, 2)
    np.testing.assert_allclose(scene, softmax(scene_logits), atol=1e-5)
    np.testing.assert_allclose(event, sigmoid(event_logits)[:, :frames], atol=1e-5)
    single_scene, single_event = model(part[3])
    assert single_scene.shape == (2,) and single_event.shape == (frames, 2)
    np.testing.assert_allclose(single_scene, scene[3], atol=1e-5)
    np.testing.assert_allclose(single_event, event[3], atol=1e-5)


@pytest.mark.parametrize("clips", [1, 2, 3, 4, 5, 6, 9])
def test_scores_do_not_depend_on_the_number_of_clips(model, log_mel, clips):
    """On a CPU, the network takes four clips at a time."""
    expected = model(log_mel)
    scene, event = model(np.resize(log_mel, (clips, FRAMES, BINS)))
    for number in range(clips):
        np.testing.assert_allclose(scene[number], expected[0][number % 5], atol=1e-5)
        np.testing.assert_allclose(event[number], expected[1][number % 5], atol=1e-5)


def test_spectrogram_may_be_a_list_a_jax_array_or_float64(model, log_mel):
    expected = model(log_mel[0])
    for argument in (log_mel[0].tolist(), jax.numpy.asarray(log_mel[0]), log_mel[0].astype(np.float64)):
        for scores, expected_scores in zip(model(argument), expected, strict=True):
            np.testing.assert_array_equal(scores, expected_scores)


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
def test_wrong_shapes_are_refused(model, shape):
    for call in (model, model.embeddings, lambda log_mel: model.sensitivity(log_mel, "low")):
        with pytest.raises(ValueError, match="with 1 to 50 frames") as error:
            call(np.zeros(shape, np.float32))
        assert str(shape) in str(error.value)


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
    single = model.embeddings(part[2])
    assert {name: value.shape for name, value in single.items()} == {name: shape[1:] for name, shape in shapes.items()}
    for name, value in single.items():
        np.testing.assert_allclose(value, embedded[name][2], atol=1e-4)


# Sensitivity.


def logit_along(model, log_mel, label, mask, amounts):
    """The logit of a label after scaling the deviations under a mask by 1 + amount; of an event, in its highest frames."""
    mean = np.asarray(model.feature_stats["mean"])
    moved = np.stack([log_mel + amount * mask * (log_mel - mean) for amount in amounts]).astype(np.float32)
    scene_logits, event_logits = compute_logits(model, moved)
    if label in model.scenes:
        return scene_logits[:, model.scenes.index(label)]
    frames, column = len(log_mel), model.events.index(label)
    now = compute_logits(model, log_mel[None])[1][0, :frames, column]
    return event_logits[:, :frames, column][:, now >= np.quantile(now, 0.9)].mean(1)


@pytest.fixture(scope="module")
def sloping(dataset, tmp_path_factory):
    """A network whose logits depend on large parts of a clip."""
    workdir = tmp_path_factory.mktemp("slopes") / "run"
    save_random_checkpoints(workdir, dataset, 5)
    return mfl_jax.load(workdir)


@pytest.mark.parametrize("frames", [FRAMES, 30])
@pytest.mark.parametrize("label", ["busy", "calm", "high", "low"])
def test_sensitivity_is_the_slope_of_the_logit(sloping, log_mel, label, frames):
    """Compares with differences of the logit along random masks, a stripe of frames and a stripe of bins."""
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


def test_sensitivity_takes_one_clip_and_a_known_label(model, log_mel):
    with pytest.raises(ValueError, match="takes one clip"):
        model.sensitivity(log_mel, "low")
    with pytest.raises(ValueError, match="unknown class 'lo'; the model knows busy, calm, high, low"):
        model.sensitivity(log_mel[0], "lo")


def test_sensitivity_is_zero_where_the_spectrogram_is_the_mean(sloping, log_mel):
    clip = log_mel[0].copy()
    clip[10:20], clip[:, 7] = np.asarray(sloping.feature_stats["mean"]), np.asarray(sloping.feature_stats["mean"])[7]
    for label in ("busy", "low"):
        sensitivity = sloping.sensitivity(clip, label)
        assert not sensitivity[10:20].any() and not sensitivity[:, 7].any() and sensitivity[30:].any()


# Padded clips.


def test_frames_after_the_end_are_ignored(sloping, log_mel):
    """Clips come with their number of valid frames, as in data sets."""
    clips = log_mel[:3].copy()
    for number, valid in enumerate((50, 30, 1)):
        clips[number, valid:] = 1e3
    scene, event = sloping(clips, [50, 30, 1])
    embedded = sloping.embeddings(clips, [50, 30, 1])
    assert event.shape == (3, FRAMES, 2)
    for number, valid in enumerate((50, 30, 1)):
        part = clips[number, :valid]
        part_scene, part_event = sloping(part)
        np.testing.assert_allclose(scene[number], part_scene, atol=1e-5)
        np.testing.assert_allclose(event[number, :valid], part_event, atol=1e-5)
        alone = sloping.embeddings(part)
        np.testing.assert_allclose(embedded["scene"][number], alone["scene"], atol=1e-4)
        np.testing.assert_allclose(embedded["event"][number, :valid], alone["event"], atol=1e-4)
        for label in ("calm", "high"):
            padded = sloping.sensitivity(clips[number], label, valid)
            np.testing.assert_allclose(padded[:valid], sloping.sensitivity(part, label), atol=1e-5)
            assert not padded[valid:].any()
    single = sloping(clips[1], 30)
    np.testing.assert_allclose(single[0], scene[1], atol=1e-5)


@pytest.mark.parametrize("valid", [51, -1, [50], [50, 50, 51], [[50, 50, 50, 50]]])
def test_wrong_valid_frames_are_refused(model, log_mel, valid):
    with pytest.raises(ValueError, match="for each of 3 clips"):
        model(log_mel[:3], valid)


# Recordings.


def test_predict_equals_calls_for_each_clip(model, dataset, trained_run):
    file = trained_run[1] / "recordings" / "audio" / "evaluation_1.wav"
    prediction = model.predict(file)
    assert prediction.recording == "evaluation_1.wav" and prediction.duration_s == pytest.approx(2.6)
    assert prediction.frame_scores.shape == (130, 2) and prediction.overlap == 0.5
    unoverlapped = model.predict(str(file), overlap=0)
    clips = dataset.read("evaluation")
    numbers = np.flatnonzero(clips.recording == "audio/evaluation_1.wav")
    ordered = clips.take(numbers[np.argsort(clips.clip_start_s[numbers])])
    expected = [model(ordered["log_mel"][row, :valid])[1] for row, valid in enumerate(ordered["valid_frames"])]
    np.testing.assert_allclose(unoverlapped.frame_scores, np.concatenate(expected), atol=1e-5)
    with pytest.raises(InputError, match=r"missing\.wav"):
        model.predict(file.with_name("missing.wav"))
