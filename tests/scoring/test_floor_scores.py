"""Scores of systems that ignore the audio."""

import numpy as np
import pytest

from mfl_jax.data import annotation, label_list, prepare, prepared_dataset
from mfl_jax.data.annotation import Event, Recording
from mfl_jax.errors import InputError
from mfl_jax.scoring import floor_scores


def make_clips(min_clip_share=0.0, start_s=0.0, has_scenes=True, **arrays) -> prepared_dataset.Clips:
    """Returns clips with the given arrays, as if read from a prepared data set."""

    class Source:
        def __len__(self):
            return len(arrays["scene"])

        def __getitems__(self, indices):
            origin = {"fold": 0, "recording": "a.wav", "clip_start_s": start_s}
            return [origin | {field: array[index] for field, array in arrays.items()} for index in indices]

    return prepared_dataset.Clips(Source(), min_clip_share=min_clip_share, has_scenes=has_scenes)


def test_floors_of_three_clips():
    """Event 0 is active in most frames of scene 0 only."""
    events = np.zeros((3, 4, 2), bool)
    events[0, :3, 0] = True
    events[1, :1, 1] = True
    log_mel = np.zeros((3, 4, 1), np.float32)
    clips = make_clips(log_mel=log_mel, events=events, scene=np.array([0, 1, 1]), valid_frames=np.array([4, 4, 1]))
    floors = floor_scores.compute_floors(clips, np.arange(3), ("a", "b"), ("x", "y"))
    assert floors["scene"]["majority"] == {"answer": "b", "micro_f": pytest.approx(200 / 3), "macro_f": pytest.approx(40)}
    event = floors["event"]
    assert event["all_off"]["micro_f"] == 0 and event["all_off"]["error_rate"] == 1
    assert event["always_on"]["micro_f"] == pytest.approx(100 * 2 * 4 / (2 * 4 + 14))  # 9 valid frames, 18 cells, 4 active
    assert event["oracle_scene"]["detected"] == {"a": ["x"]}
    assert event["oracle_scene"]["micro_f"] == pytest.approx(100 * 2 * 3 / (2 * 3 + 1 + 1))


def test_short_clips_have_frames_but_no_scene():
    """Two of three clips of scene `a` are short: most of those that count are of `b`, most frames still of `a`."""
    events = np.zeros((5, 4, 1), bool)
    events[:3, 0] = True
    clips = make_clips(
        0.5, 10.0, log_mel=np.zeros((5, 4, 1), np.float32), events=events,
        scene=np.array([0, 0, 0, 1, 1]), valid_frames=np.array([1, 1, 4, 2, 4]),
    )  # fmt: skip
    counts = floor_scores.count_activity(clips, np.arange(5), 2, 1)
    assert [count.tolist() for count in counts] == [[3, 2], [1, 2], [6, 6], [[3], [0]]]
    floors = floor_scores.compute_floors(clips, np.arange(5), ("a", "b"), ("x",))
    assert floors["scene"]["majority"] == {"answer": "b", "micro_f": pytest.approx(200 / 3), "macro_f": pytest.approx(40)}
    assert floors["event"]["always_on"]["micro_f"] == pytest.approx(100 * 2 * 3 / (2 * 3 + 9))


def test_activity_leaves_out_what_is_not_annotated():
    """Clip 0 has no scene, clip 2 no events."""
    events = np.zeros((3, 4, 1), bool)
    events[:2, :3] = True
    clips = make_clips(
        log_mel=np.zeros((3, 4, 1), np.float32), events=events, events_annotated=np.array([True, True, False]),
        scene=np.array([-1, 1, 1]), valid_frames=np.array([4, 4, 4]),
    )  # fmt: skip
    counts = floor_scores.count_activity(clips, np.arange(3), 2, 1)
    assert [count.tolist() for count in counts] == [[0, 2], [0, 2], [0, 4], [[0], [3]]]


def test_floors_of_one_task_alone():
    """Without scenes nobody knows the true one; without events there is nothing to detect."""
    events = np.zeros((2, 4, 1), bool)
    events[0, :3] = True
    arrays = {"log_mel": np.zeros((2, 4, 1), np.float32), "valid_frames": np.array([4, 2])}
    clips = make_clips(has_scenes=False, events=events, scene=np.array([-1, -1]), **arrays)
    floors = floor_scores.compute_floors(clips, np.arange(2), (), ("x",))
    assert floors.keys() == {"event"} and floors["event"].keys() == {"all_off", "always_on"}
    assert floors["event"]["always_on"]["micro_f"] == pytest.approx(100 * 2 * 3 / (2 * 3 + 3))  # 6 valid frames, 3 active
    counts = floor_scores.count_activity(clips, np.arange(2), 0, 1)
    assert [count.tolist() for count in counts] == [[2], [2], [6], [[3]]]
    clips = make_clips(events=events[..., :0], scene=np.array([1, 1]), **arrays)
    floors = floor_scores.compute_floors(clips, np.arange(2), ("a", "b"), ())
    assert floors == {"scene": {"majority": {"answer": "b", "micro_f": 100.0, "macro_f": 50.0}}}


def test_floors_of_the_published_evaluation_labels(shared_dir):
    """Known values: 32.95 % for the majority scene, 38.93 % for `fan` in the office alone.

    Lengths without the audio: a scene recording has 30 s, or 10 s in 2017; an event recording ends with its last event.
    """
    module = prepare.load_builder("tut_scenes_events")
    listed = label_list.read_label_list(shared_dir / "datasets" / "sed_asc_metadata" / "meta" / "meta_evaluation.txt")
    events, scenes, valid_frames = [], [], []
    for recording in listed:
        end_s = max(event.offset_s for event in recording.events)
        if "acoustic-scenes" in recording.path:
            end_s = 10.0 if "2017" in recording.path else 30.0
        frames = int(np.ceil(end_s * 50 - 1e-9))
        for start in range(0, frames, 500):
            active = annotation.events_to_frames(
                recording.events, module.EVENTS, 500, first_frame=start, hop_samples=882, sample_rate_hz=44_100
            )
            events.append(active)
            scenes.append(module.SCENES.index(recording.scene))
            valid_frames.append(min(500, frames - start))
    log_mel = np.zeros((len(scenes), 500, 1), np.float32)
    clips = make_clips(log_mel=log_mel, events=np.array(events), scene=np.array(scenes), valid_frames=np.array(valid_frames))
    floors = floor_scores.compute_floors(clips, np.arange(len(clips)), module.SCENES, module.EVENTS)
    assert floors["scene"]["majority"]["micro_f"] == pytest.approx(32.95, abs=0.005)
    assert floors["event"]["oracle_scene"]["detected"] == {"office": ["fan"]}
    assert floors["event"]["oracle_scene"]["micro_f"] == pytest.approx(38.93, abs=0.005)


def test_floors_leave_out_what_is_not_annotated(caplog):
    """Clip 0 has no scene, clip 2 no events. Event 0 is usual in scene b, event 1 in both and so without one."""
    events = np.zeros((4, 4, 2), bool)
    events[:2, :3] = events[3, :, 1] = True
    clips = make_clips(
        log_mel=np.zeros((4, 4, 1), np.float32), events=events, events_annotated=np.array([True, True, False, True]),
        scene=np.array([-1, 1, 1, 0]), valid_frames=np.array([4, 4, 4, 4]),
    )  # fmt: skip
    floors = floor_scores.compute_floors(clips, np.arange(4), ("a", "b"), ("x", "y"))
    assert floors["scene"]["majority"]["answer"] == "b" and floors["scene"]["majority"]["micro_f"] == pytest.approx(200 / 3)
    assert floors["event"]["oracle_scene"]["detected"] == {"a": ["y"], "b": ["x", "y"]}
    # 12 annotated frames, 24 cells, of which 6 + 6 + 4 are active. The oracle detects 4 + 8 + 4 of them: 3 + 6 + 4 right.
    assert floors["event"]["always_on"]["micro_f"] == pytest.approx(100 * 2 * 16 / (2 * 16 + 8))
    assert floors["event"]["oracle_scene"]["micro_f"] == pytest.approx(100 * 2 * 13 / (16 + 16))
    assert not caplog.records
    floor_scores.compute_floors(clips, np.array([2]), ("a", "b"), ("x", "y"))
    floor_scores.compute_floors(clips, np.array([0]), ("a", "b"), ("x", "y"))
    assert [record.getMessage() for record in caplog.records] == [
        f"no clip to score is annotated for {kind}s; {kind} scores are 0 of 0" for kind in ("event", "scene")
    ]


class FakeDataset:
    """A data set of scenes a and b whose list has events x and y in a, y in b; the last recording is one that is scored."""

    scenes, events = ("a", "b"), ("x", "y", "z")

    def recordings(self, split):
        assert split == "development"
        x, y, z = (Event(0, 1, label) for label in "xyz")
        return [Recording("1", "a", (x, y)), Recording("2", "b", (y, y)), Recording("3", "", (z,)), Recording("9", "b", (z,))]


def make_clips_of_recordings():
    """Clip 0 is of scene a, clip 1 of b, clip 2 of none, clip 3 of b without annotated events; x is active in clip 0 and 1."""
    events = np.zeros((4, 4, 3), bool)
    events[:2, :, 0] = events[0, :2, 1] = events[2, 0, 2] = True
    return make_clips(
        log_mel=np.zeros((4, 4, 1), np.float32), events=events, events_annotated=np.array([True, True, True, False]),
        scene=np.array([0, 1, -1, 1]), valid_frames=np.array([4, 3, 4, 4]), recording=np.array(["7", "8", "9", "9"]),
    )  # fmt: skip


def test_floors_of_the_events_of_each_scene_by_hand():
    """Rows arrive in another order, with padding, and the run takes clip 0 for b, clip 1 for a and clip 2 for a."""
    clips, numbers = make_clips_of_recordings(), np.array([2, 0, 1, 3])
    floors_of = floor_scores.prepare_floors(FakeDataset(), clips, numbers)
    by_clip = {"number": np.array([1, -1, 3, 0, 2]), "scene": {"predicted": np.array([0, 1, 1, 1, 0])}}
    event = floors_of(by_clip)["event"]
    # True scenes: clip 0 has x and y (6 hits, 2 false), clip 1 y (3 false, 3 missed), clip 2 y, which both have
    # (4 false, 1 missed).
    assert event["events_of_true_scene"] == {
        "micro_f": pytest.approx(100 * 12 / (12 + 9 + 4)),
        "macro_f": pytest.approx((100 * 8 / 11 + 100 * 4 / 13 + 0) / 3),
        "error_rate": pytest.approx((2 + 3 + 4) / 10),
    }
    # Predicted scenes: clip 0 has y (2 hits, 2 false, 4 missed), clip 1 x and y (3 hits, 3 false), clip 2 x and y (8 false).
    assert event["events_of_predicted_scene"] == {
        "micro_f": pytest.approx(100 * 10 / (10 + 13 + 5)),
        "macro_f": pytest.approx((100 * 6 / (6 + 4 + 4) + 100 * 4 / (4 + 9) + 0) / 3),
        "error_rate": pytest.approx((4 + 3 + 8) / 10),
    }
    without_scenes = floors_of({"number": by_clip["number"]})["event"]
    assert without_scenes.keys() == event.keys() - {"events_of_predicted_scene"}
    old = floor_scores.compute_floors(clips, numbers, ("a", "b"), ("x", "y", "z"))
    assert all(event[name] == floor for name, floor in old["event"].items())


def test_data_of_an_older_version_has_no_floors_of_scenes(caplog):
    class Older(FakeDataset):
        def recordings(self, split):
            raise InputError("prepared by an older version")

    floors = floor_scores.prepare_floors(Older(), make_clips_of_recordings(), np.arange(4))({})
    assert floors["event"].keys() == {"all_off", "always_on", "oracle_scene"}
    (record,) = caplog.records
    assert "left out: prepared by an older version" in record.getMessage()
