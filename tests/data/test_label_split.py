"""Splits of labelled recordings: groups stay together, classes keep their shares."""

import numpy as np
import pytest

from mfl_jax.data.annotation import Event, Recording
from mfl_jax.data.label_split import split_recordings
from mfl_jax.errors import InputError


def record(path, scene="", labels=(), group=""):
    return Recording(path, scene, tuple(Event(0.0, 1.0, label) for label in labels), group)


def split(recordings, share=0.8, **seconds):
    sides = split_recordings(recordings, {recording.path: seconds.get(recording.path, 60.0) for recording in recordings}, share)
    return [[recording.path for recording in side] for side in sides]


def test_each_scene_has_the_share():
    """Ten recordings of two scenes: two are scored, one of each scene, the first of equal ones."""
    recordings = [record(f"{n}", "home" if n < 5 else "street") for n in range(10)]
    assert split(recordings) == [["1", "2", "3", "4", "6", "7", "8", "9"], ["0", "5"]]


def test_groups_stay_together():
    recordings = [record(f"{n:02}", "home", ["car"], group="abcde"[n % 5]) for n in range(20)]
    train, scored = split(recordings)
    assert scored == ["00", "05", "10", "15"] and sorted(train + scored) == [f"{n:02}" for n in range(20)]


def test_a_class_of_one_group_is_trained_on():
    """The horn is in recording 0 alone, the bell in 3 and 4: one of these two is scored."""
    recordings = [record("0", labels=["car", "horn"]), *(record(f"{n}", labels=["car"]) for n in (1, 2))]
    recordings += [record(f"{n}", labels=["car", "bell"]) for n in (3, 4)]
    assert split(recordings) == [["0", "1", "2", "4"], ["3"]]


def test_lengths_count():
    """Recording c is as long as a fifth of all."""
    assert split([record("a"), record("b"), record("c")], a=100.0, b=140.0, c=60.0) == [["a", "b"], ["c"]]


def test_both_sides_get_something_even_if_every_group_has_a_class_of_its_own():
    train, scored = split([record("a", "home"), record("b", "street")])
    assert sorted(train + scored) == ["a", "b"] and len(train) == 1


def test_one_group_is_refused():
    with pytest.raises(InputError, match="at least two groups, but all 2 recordings are in one"):
        split([record("a", group="x"), record("b", group="x")])


def test_many_random_groups_come_close_to_the_share():
    rng = np.random.default_rng(0)
    labels = ["car", "horn", "dog", "bell"]
    recordings = [
        record(
            f"{n:03}", ["home", "street"][n % 2], [label for label in labels if rng.random() < 0.3], group=f"{rng.integers(40)}"
        )
        for n in range(200)
    ]
    train, scored = split(recordings, 0.75)
    assert len(scored) == pytest.approx(50, abs=5)
    groups = {recording.path: recording.group for recording in recordings}
    assert not {groups[path] for path in train} & {groups[path] for path in scored}
    for label in labels:
        paths = [recording.path for recording in recordings if any(event.label == label for event in recording.events)]
        assert sum(path in scored for path in paths) / len(paths) == pytest.approx(0.25, abs=0.08)
