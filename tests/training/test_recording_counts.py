"""Counts by recording: sums over the clips of each recording, and the file that holds them."""

import numpy as np
import pytest

from mfl_jax import metrics
from mfl_jax.errors import InputError
from mfl_jax.training import evaluation, recording_counts


class FakeClips:
    """Clips of two recordings."""

    recording = np.array(["b", "a", "b", "never scored", "b"])
    event_mask = np.array([False, True, False, True, False])


BY_CLIP = {
    "number": np.array([4, 1, -1, 0, 2]),  # in any order; -1 is padding
    "scene": {"true": np.array([1, 0, 0, 1, 1]), "answers": np.eye(2, dtype=int)[[1, 1, 0, 0, 1]]},
    "event": {"tp": np.array([[1, 2], [3, 4], [9, 9], [10, 20], [100, 200]]), "active": np.array([3, 7, 9, 30, 300])},
}


def test_clips_are_added_up_by_recording():
    counts = recording_counts.count_recordings(BY_CLIP, FakeClips)
    got = {name: array.tolist() for name, array in counts.items()}
    assert got == {
        "recording": ["a", "b"], "scene": [0, 1], "answers": [[0, 1], [1, 2]], "tp": [[3, 4], [111, 222]], "active": [7, 333],
        "events_annotated": [True, False],
    }  # fmt: skip
    assert recording_counts.sum_recordings(counts) == {
        "scene": {"confusion": [[0, 1], [1, 2]]}, "event": {"tp": [114, 226], "active": 340},
    }  # fmt: skip


def test_one_task_alone_is_counted():
    counts = recording_counts.count_recordings({"number": BY_CLIP["number"], "scene": BY_CLIP["scene"]}, FakeClips)
    assert set(counts) == {"recording", "scene", "answers"} and set(recording_counts.sum_recordings(counts)) == {"scene"}


def test_each_task_has_the_recordings_that_count_for_it():
    """`a` has no scene, `b` neither events nor detections; `c` has no events either, but that is annotated."""
    counts = {
        "recording": np.array(["a", "b", "c"]), "scene": np.array([-1, 1, 0]), "answers": np.array([[0, 0], [1, 2], [3, 0]]),
        "tp": np.array([[4], [0], [0]]), "active": np.array([5, 0, 0]), "events_annotated": np.array([True, False, True]),
    }  # fmt: skip
    scene, event = (recording_counts.select_annotated(counts, task) for task in ("scene", "event"))
    assert {name: array.tolist() for name, array in scene.items()} == {
        "recording": ["b", "c"], "scene": [1, 0], "answers": [[1, 2], [3, 0]],
    }  # fmt: skip
    assert {name: array.tolist() for name, array in event.items()} == {
        "recording": ["a", "c"],
        "tp": [[4], [0]],
        "active": [5, 0],
    }
    del counts["events_annotated"]  # as earlier versions wrote it
    assert recording_counts.select_annotated(counts, "event")["recording"].tolist() == ["a", "b", "c"]
    assert recording_counts.select_annotated({"recording": counts["recording"]}, "event") is None
    joined = recording_counts.join_recordings([counts, {**counts, "events_annotated": np.ones(3, bool)}])
    assert "events_annotated" not in joined and len(joined["tp"]) == 6


def test_recordings_of_folds_are_joined_in_order():
    one, two = (
        {"recording": np.array(names), "tp": np.array(tp)} for names, tp in ((["b", "d"], [[1], [2]]), (["a", "c"], [[3], [4]]))
    )
    joined = recording_counts.join_recordings([one, two])
    assert joined["recording"].tolist() == ["a", "b", "c", "d"] and joined["tp"].tolist() == [[3], [1], [4], [2]]
    assert recording_counts.join_recordings([one, None]) is None


def test_a_file_is_read_only_with_the_results_it_belongs_to(tmp_path):
    counts = recording_counts.count_recordings(BY_CLIP, FakeClips)
    results = {"counts": recording_counts.sum_recordings(counts)}
    assert recording_counts.read_counts(tmp_path, results) is None  # scored by an earlier version
    recording_counts.write_counts(tmp_path, counts)
    read = recording_counts.read_counts(tmp_path, results)
    assert all(np.array_equal(read[name], counts[name]) for name in counts) and set(read) == set(counts)
    results["counts"]["event"]["tp"][0] += 1
    assert recording_counts.read_counts(tmp_path, results) is None
    assert recording_counts.read_counts(tmp_path, {}) is None
    assert [file.name for file in tmp_path.iterdir()] == [recording_counts.FILE]


def write_pickle(file):
    with file.open("wb") as out:
        np.savez(out, recording=np.array([object()]))


def write_without_answers(file):
    with file.open("wb") as out:
        np.savez(out, recording=np.array(["a"]), scene=np.array([0]))


def write_half(file):
    file.write_bytes(b"PK\x03\x04 half a file")


def write_nothing(file):
    file.write_bytes(b"")


@pytest.mark.parametrize("write", [write_half, write_nothing, write_pickle, write_without_answers])
def test_damaged_files_are_refused(tmp_path, write):
    write(tmp_path / recording_counts.FILE)
    with pytest.raises(InputError, match=r"recording_counts\.npz: not readable .*; delete it"):
        recording_counts.read_counts(tmp_path, {"counts": {}})


class FiveClips(FakeClips):
    """Clips whose one frame has one event; clip n is of scene n % 2."""

    def take(self, indices, offsets=None):
        assert offsets is None
        n = np.asarray(indices)
        events = np.ones((len(n), 1, 1), bool)
        return {"log_mel": np.zeros((len(n), 1, 1)), "events": events, "scene": n % 2, "valid_frames": np.ones(len(n), int)}


@pytest.mark.parametrize("runs", [(), (2,), (2, 1)], ids=["one run", "several runs", "runs on two devices"])
def test_batches_are_joined_along_their_clips(runs):
    """Every run has the same counts; the step is one that hands the numbers of its rows back, as `steps.eval_step` does."""
    seen = []

    def step(state, batch, scalars):
        seen.append(batch["number"].tolist())
        tp = np.where(batch["clip_mask"], 10 + batch["number"], 99)[:, None]
        by_clip = {"number": batch["number"], "event": {"tp": tp}}
        sums = {"clips": batch["clip_mask"].sum(), "by_clip": by_clip}
        return {key: _repeat(value, runs) for key, value in sums.items()}

    sums = evaluation.accumulate_counts(step, None, {}, FiveClips(), np.array([4, 2, 0, 1]), 3, slice(0, 4))
    assert seen == [[4, 2, 0, -1], [1, -1, -1, -1]]
    assert sums["clips"].tolist() == np.full(runs, 4).tolist()
    of_run = _first(sums["by_clip"], len(runs))
    counts = recording_counts.count_recordings(of_run, FiveClips)
    assert counts["recording"].tolist() == ["a", "b"] and counts["tp"].tolist() == [[11], [14 + 12 + 10]]


def _repeat(tree, runs):
    if isinstance(tree, dict):
        return {key: _repeat(value, runs) for key, value in tree.items()}
    return np.broadcast_to(tree, (*runs, *np.shape(tree)))


def _first(tree, axes):
    return {key: _first(value, axes) for key, value in tree.items()} if isinstance(tree, dict) else tree[(0,) * axes]


def test_sums_have_the_form_of_the_counts_of_a_run():
    """`metrics.frame_counts` and `scene_counts` of all clips at once, against those clip by clip."""
    rng = np.random.default_rng(0)
    detected, active = rng.random((2, 5, 8, 3)) < 0.4
    answers, true = rng.integers(0, 2, 5), np.array([1, 0, 1, 0, 1])
    clips = [metrics.frame_counts(*pair) for pair in zip(detected, active, strict=True)]
    event = {name: np.array([clip[name] for clip in clips]) for name in clips[0]}
    by_clip = {"number": np.arange(5), "scene": {"true": true, "answers": np.eye(2, dtype=int)[answers]}, "event": event}
    got = recording_counts.sum_recordings(recording_counts.count_recordings(by_clip, FakeClips))
    expected = {"scene": metrics.scene_counts(answers, true, classes=2), "event": metrics.frame_counts(detected, active)}
    assert got == {task: {name: np.asarray(value).tolist() for name, value in expected[task].items()} for task in expected}
