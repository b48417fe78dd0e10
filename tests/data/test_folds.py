"""Folds: groups stay together, scenes and lengths are balanced, and lists without groups have the folds they always had."""

import numpy as np
import pytest

from mfl_jax.data import folds
from mfl_jax.data.annotation import Recording


def list_recordings(*rows):
    """Recordings a.wav, b.wav, ... of (scene, group), in reverse order, since order must not matter."""
    return [Recording(f"{chr(97 + n)}.wav", scene, (), group) for n, (scene, group) in enumerate(rows)][::-1]


def assign(recordings, frames=None):
    """Returns the folds in the order of paths."""
    assigned = folds.assign_folds(recordings, frames or {recording.path: 100 for recording in recordings})
    return [assigned[path] for path in sorted(assigned)]


def test_without_groups_each_scene_is_dealt_in_turn():
    recordings = list_recordings(*[(scene, "") for scene in ("home", "home", "park", "home", "park", "home", "home", "park")])
    assert assign(recordings) == [1, 2, 1, 3, 2, 4, 1, 3]
    assert assign(recordings, {"not": 0}) == [1, 2, 1, 3, 2, 4, 1, 3]


def test_lengths_are_balanced():
    """Groups of 50, 40, 30, 20, 20 and 10 frames of one scene: 50, 40, 30 + 10, 20 + 20."""
    recordings = list_recordings(*[("home", group) for group in "uvwxyzu"])
    frames = dict(zip("abcdefg", (20, 40, 30, 20, 20, 10, 30), strict=True))
    # u has a and g; e joins d in the fold that holds least, 20; then f joins c, 30.
    assert assign(recordings, {f"{name}.wav": count for name, count in frames.items()}) == [1, 2, 3, 4, 4, 3, 1]


def test_scenes_are_balanced_before_lengths():
    """Four locations of each scene; the parks are ten times as long as the homes."""
    recordings = list_recordings(*[("home", f"h{n}") for n in range(4)], *[("park", f"p{n}") for n in range(4)])
    frames = {recording.path: 1000 if recording.scene == "park" else 100 for recording in recordings}
    assert assign(recordings, frames) == [1, 2, 3, 4, 1, 2, 3, 4]
    # One location of two scenes repels the homes and the parks.
    mixed = list_recordings(("home", "x"), ("park", "x"), *[("home", f"h{n}") for n in range(3)], ("park", "p"))
    assert assign(mixed) == [1, 1, 2, 3, 4, 2]


def test_a_recording_without_a_group_is_a_group_of_its_own():
    recordings = list_recordings(("home", "x"), ("home", ""), ("home", ""), ("home", "x"), ("home", ""))
    assert assign(recordings) == [1, 2, 3, 1, 4]
    assert [[recording.path for recording in group] for group in folds.list_groups(recordings)] == [
        ["a.wav", "d.wav"], ["b.wav"], ["c.wav"], ["e.wav"],
    ]  # fmt: skip
    # A group named like a path is not that recording.
    assert len(folds.list_groups([Recording("a", "home", ()), Recording("b", "home", (), "a")])) == 2


@pytest.mark.parametrize("seed", range(20))
def test_groups_stay_together_and_no_fold_is_empty(seed):
    rng = np.random.default_rng(seed)
    recordings = [
        Recording(f"{n:02}.wav", str(rng.choice(["home", "park", ""])), (), str(rng.choice(["", *"abcde"]))) for n in range(40)
    ]
    frames = {recording.path: int(rng.integers(1, 500)) for recording in recordings}
    assigned = folds.balance_groups(recordings, frames)
    for group in folds.list_groups(recordings):
        assert len({assigned[recording.path] for recording in group}) == 1
    assert set(assigned.values()) == {1, 2, 3, 4} and assigned.keys() == frames.keys()
    shuffled = [recordings[index] for index in rng.permutation(len(recordings))]
    assert folds.balance_groups(shuffled, frames) == assigned
