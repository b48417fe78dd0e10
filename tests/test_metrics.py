"""Scores against reference figures, scikit-learn and slow loops."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from mfl_jax import metrics

GOLDEN = ["typical", "absent_classes", "nothing_detected", "everything_detected"]


@pytest.mark.parametrize("case", GOLDEN)
def test_published_reference_scores_are_reproduced(shared_dir, case):
    folder = shared_dir / "golden" / "frame_metrics"
    expected = json.loads((folder / "expected.json").read_text())[case]
    with np.load(folder / f"{case}.npz") as file:
        arrays = dict(file)
    event = metrics.frame_scores(arrays["event_scores"], arrays["event_labels"], expected["threshold"])
    for key, want in expected["event"].items():
        np.testing.assert_allclose(event[key], want, atol=1e-4, rtol=0, err_msg=key)
    scene = metrics.scene_scores(arrays["scene_scores"], arrays["scene_labels"])
    assert scene["micro_f"] == pytest.approx(expected["scene"]["micro_f"], abs=1e-4)
    # The reference too averages over the whole vocabulary, and an absent scene counts 0. Only `typical` has labels of all four
    # scenes. In the other cases, means over the labelled scenes would be 31.48, 77.78 and 20 %.
    assert scene["macro_f"] == pytest.approx(expected["scene"]["macro_f"], abs=1e-4)


def some_frames(seed, frames=300, events=7):
    rng = np.random.default_rng(seed)
    return rng.random((frames, events)).astype(np.float32), (rng.random((frames, events)) < 0.2).astype(np.uint8)


def test_event_scores_agree_with_scikit_learn():
    scores, labels = some_frames(0)
    got, detected = metrics.frame_scores(scores, labels), scores >= 0.5

    def sklearn_f(average):
        return 100 * sklearn.metrics.f1_score(labels, detected, average=average, zero_division=0)

    assert got["micro_f"] == pytest.approx(sklearn_f("micro"))
    assert got["macro_f"] == pytest.approx(sklearn_f("macro"))
    np.testing.assert_allclose(got["class_f"], sklearn_f(None))
    assert got["precision"] == pytest.approx(100 * sklearn.metrics.precision_score(labels, detected, average="micro"))
    assert got["recall"] == pytest.approx(100 * sklearn.metrics.recall_score(labels, detected, average="micro"))


def test_error_rate_agrees_with_a_loop_over_frames():
    scores, labels = some_frames(1)
    substitutions = deletions = insertions = active = 0
    for score, label in zip(scores, labels, strict=True):
        alarms = sum(1 for s, z in zip(score, label, strict=True) if s >= 0.3 and not z)
        misses = sum(1 for s, z in zip(score, label, strict=True) if s < 0.3 and z)
        substitutions += min(alarms, misses)
        deletions += max(0, misses - alarms)
        insertions += max(0, alarms - misses)
        active += int(label.sum())
    got = metrics.frame_scores(scores, labels, threshold=0.3)["error_rate"]
    assert got == pytest.approx((substitutions + deletions + insertions) / active)


def test_absent_event_counts_zero_in_the_mean():
    """0 if neither annotated nor detected (0/0) or only detected, like scikit-learn with zero_division=0."""
    scores, labels = some_frames(7)
    labels[:, [2, 4]] = 0
    scores[:, 2] = 0
    got = metrics.frame_scores(scores, labels)
    assert got["class_f"][2] == got["class_f"][4] == 0 and min(np.delete(got["class_f"], [2, 4])) > 0
    want = sklearn.metrics.f1_score(labels, scores >= 0.5, average="macro", zero_division=0)
    assert got["macro_f"] == pytest.approx(100 * want) == pytest.approx(sum(got["class_f"]) / 7)


def test_miss_and_false_alarm_in_one_frame_are_a_substitution():
    """By hand; a miss in one frame and a false alarm in another stay a deletion and an insertion."""
    detected = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 1], [1, 1, 0], [0, 0, 1], [1, 0, 0]], bool)
    active = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 1], [1, 1, 0], [1, 0, 0]], bool)
    counts = metrics.frame_counts(detected, active)
    #      substitution  deletion  2 insertions  1 + insertion  1 + deletion  hit
    assert (counts["substitutions"], counts["deletions"], counts["insertions"], counts["active"]) == (3, 2, 3, 7)
    assert [counts[key].tolist() for key in ("tp", "fp", "fn")] == [[1, 0, 1], [3, 2, 1], [2, 2, 1]]
    assert metrics.frame_ratios(counts)["error_rate"] == pytest.approx(8 / 7)


def test_scene_scores_agree_with_scikit_learn():
    rng = np.random.default_rng(2)
    scores, labels = rng.random((60, 4)), rng.integers(0, 4, 60)
    got, answer = metrics.scene_scores(scores, labels), scores.argmax(1)
    assert got["micro_f"] == pytest.approx(100 * sklearn.metrics.accuracy_score(labels, answer))
    assert got["macro_f"] == pytest.approx(100 * sklearn.metrics.f1_score(labels, answer, average="macro"))
    assert got["confusion"] == sklearn.metrics.confusion_matrix(labels, answer).tolist()
    np.testing.assert_allclose(got["class_f"], 100 * sklearn.metrics.f1_score(labels, answer, average=None))


def test_absent_scene_counts_zero():
    scores = np.eye(4)[[0, 1, 1]]
    got = metrics.scene_scores(scores, np.array([0, 1, 1]))
    assert got["class_f"] == [100, 100, 0, 0] and got["macro_f"] == 50 and got["micro_f"] == 100
    assert np.shape(got["confusion"]) == (4, 4)


def test_one_clip_and_ties():
    assert metrics.scene_scores([[0.2, 0.2, 0.1]], [0])["micro_f"] == 100  # the first among equals
    assert metrics.scene_scores([[0.2, 0.2, 0.1]], [1])["micro_f"] == 0
    assert metrics.frame_scores([[0.5]], [[1]])["micro_f"] == 100  # at the threshold is detected
    assert metrics.frame_scores([[np.nextafter(np.float32(0.5), np.float32(0))]], [[1]])["micro_f"] == 0


def test_no_error_rate_without_active_frames():
    got = metrics.frame_scores(np.ones((3, 2)), np.zeros((3, 2)))
    assert got["error_rate"] is None and got["micro_f"] == got["macro_f"] == got["precision"] == got["recall"] == 0
    json.dumps(got, allow_nan=False)


def test_an_empty_split_scores_zero():
    assert metrics.frame_scores(np.zeros((0, 2)), np.zeros((0, 2)))["micro_f"] == 0
    assert metrics.scene_scores(np.zeros((0, 3)), np.zeros(0, int))["micro_f"] == 0


def test_masked_frames_and_clips_do_not_count():
    scores, labels = some_frames(3)
    mask = np.arange(len(scores)) % 3 > 0
    got = metrics.frame_counts(scores >= 0.5, labels > 0, mask)
    want = metrics.frame_counts(scores[mask] >= 0.5, labels[mask] > 0)
    assert all(np.array_equal(got[key], want[key]) for key in want)
    rng = np.random.default_rng(4)
    answer, scenes, mask = rng.integers(0, 3, 20), rng.integers(0, 3, 20), rng.random(20) < 0.5
    got = metrics.scene_counts(answer, scenes, mask, classes=3)["confusion"]
    assert np.array_equal(got, metrics.scene_counts(answer[mask], scenes[mask], classes=3)["confusion"])
    assert got.sum() == mask.sum()


def test_nothing_is_counted_if_everything_is_masked():
    scores, labels = some_frames(8)
    counts = metrics.frame_counts(scores >= 0.5, labels > 0, np.zeros(300, bool))
    assert not any(np.any(count) for count in counts.values())
    assert metrics.frame_ratios(counts)["error_rate"] is None and metrics.frame_ratios(counts)["macro_f"] == 0
    counts = metrics.scene_counts(np.array([0, 1]), np.array([0, 1]), np.zeros(2, bool), classes=2)
    assert not counts["confusion"].any() and metrics.scene_ratios(counts)["micro_f"] == 0


def test_counts_of_parts_add_up():
    rng = np.random.default_rng(9)
    answer, scenes = rng.integers(0, 3, 40), rng.integers(0, 3, 40)
    parts = [metrics.scene_counts(answer[p], scenes[p], classes=3)["confusion"] for p in (slice(0, 7), slice(7, 40))]
    assert np.array_equal(sum(parts), metrics.scene_counts(answer, scenes, classes=3)["confusion"])
    scores, labels = some_frames(5)
    total = metrics.frame_counts(scores >= 0.5, labels > 0)
    parts = [metrics.frame_counts(scores[part] >= 0.5, labels[part] > 0) for part in (slice(0, 100), slice(100, 300))]
    assert all(np.array_equal(parts[0][key] + parts[1][key], total[key]) for key in total)


def test_counts_under_jit_equal_those_of_numpy():
    scores, labels = some_frames(6)
    detected, active = (scores >= 0.5).reshape(3, 100, 7), (labels > 0).reshape(3, 100, 7)
    mask = np.arange(100) < np.array([[100], [40], [0]])
    for got, want in (
        (jax.jit(metrics.frame_counts)(detected, active, mask), metrics.frame_counts(detected, active, mask)),
        (
            jax.jit(lambda *a: metrics.scene_counts(*a, classes=3))(*map(jnp.array, ([0, 2, 1], [0, 1, 1], [True, True, False]))),
            metrics.scene_counts(np.array([0, 2, 1]), np.array([0, 1, 1]), np.array([True, True, False]), classes=3),
        ),
    ):
        assert set(got) == set(want) and all(np.array_equal(got[key], want[key]) for key in want)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.zeros((3, 2)), np.zeros((3, 3)), r"not \(3, 2\) and \(3, 3\)"),
        (np.zeros((3, 2)), np.zeros((1, 2)), r"not \(3, 2\) and \(1, 2\)"),
        (np.zeros(3), np.zeros(3), r"must both be \[frames, events\]"),
        (np.zeros((3, 0)), np.zeros((3, 0)), r"must both be \[frames, events\]"),
        ([[0.2, np.nan]], [[1, 0]], "an event score is NaN"),
        ([[0.2, 1.0]], [[1, np.nan]], r"event labels must be 0 or 1; the one at \[0, 1\] is nan"),
        ([[0.2], [1.0]], [[1], [-1]], r"event labels must be 0 or 1; the one at \[1, 0\] is -1"),
        ([[0.2, 1.0]], [[0.5, 0]], r"event labels must be 0 or 1; the one at \[0, 0\] is 0.5"),
        ([[0.2, 1.0]], [[2, 0]], r"event labels must be 0 or 1; the one at \[0, 0\] is 2"),
        ([[0.2, 1.0]], [["1", "0"]], "event labels must be 0 or 1, not of the type <U1"),
        ([["1", "0"]], [[1, 0]], "an event score must be a number, not of the type <U1"),
        ([[None, 0.5]], [[1, 0]], "an event score must be a number, not of the type object"),
    ],
)
def test_frame_scores_refuses_invalid_arrays(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        metrics.frame_scores(scores, labels)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.zeros((3, 2)), np.zeros(2, int), r"not \(3, 2\) and \(2,\)"),
        (np.zeros((3, 2)), np.zeros((3, 2), int), r"not \(3, 2\) and \(3, 2\)"),
        (np.zeros(3), np.zeros(3, int), r"scores must be \[clips, scenes\]"),
        (np.zeros((3, 0)), np.zeros(3, int), r"scores must be \[clips, scenes\]"),
        ([[np.nan, 0]], [0], "a scene score is NaN"),
        (np.zeros((2, 2)), [0, 2], r"scene labels must be whole numbers in \[0, 2\); the one at \[1\] is 2"),
        (np.zeros((2, 2)), [1, -1], r"scene labels must be whole numbers in \[0, 2\); the one at \[1\] is -1"),
        (np.eye(3), [0.5, 1, 2], r"scene labels must be whole numbers in \[0, 3\); the one at \[0\] is 0.5"),
        (np.eye(3), [0, np.nan, 2], r"scene labels must be whole numbers in \[0, 3\); the one at \[1\] is nan"),
        (np.eye(2), ["home", "street"], r"scene labels must be whole numbers in \[0, 2\), not of the type <U6"),
    ],
)
def test_scene_scores_refuses_invalid_arrays(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        metrics.scene_scores(scores, labels)


def test_threshold_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="the threshold is NaN"):
        metrics.frame_scores([[0.5]], [[1]], threshold=np.nan)


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64, np.float32, np.float64])
def test_labels_may_have_any_numeric_type(kind):
    # One hit, one false alarm, one miss: F is 2 / (2 + 1 + 1).
    assert metrics.frame_scores([[0.9], [0.9], [0.1]], np.array([[1], [0], [1]], kind))["micro_f"] == 50
    assert metrics.scene_scores(np.eye(2), np.array([0, 1], kind))["micro_f"] == 100
    assert metrics.scene_scores(np.zeros((0, 2)), np.zeros(0, kind))["confusion"] == [[0, 0], [0, 0]]
