"""Divides recordings into the folds of cross-validation. Recordings of one group are always in the same fold."""

import collections
from collections.abc import Mapping, Sequence

from mfl_jax.data.annotation import Recording

FOLDS = 4


def assign_folds(recordings: Sequence[Recording], frames: Mapping[str, int]) -> dict[str, int]:
    """Divides recordings by scene, or by group if any of them has one.

    Args:
      recordings: those of the development split.
      frames: path of a recording -> its number of frames; not used without groups.

    Returns:
      Path of a recording -> fold, 1 to `FOLDS`.
    """
    return balance_groups(recordings, frames) if any(recording.group for recording in recordings) else deal_scenes(recordings)


def deal_scenes(recordings: Sequence[Recording]) -> dict[str, int]:
    """Deals the recordings of each scene to the folds in turn, in the order of their paths."""
    folds: dict[str, int] = {}
    scene_counts: collections.Counter[str] = collections.Counter()
    for recording in sorted(recordings, key=lambda recording: recording.path):
        folds[recording.path] = scene_counts[recording.scene] % FOLDS + 1
        scene_counts[recording.scene] += 1
    return folds


def balance_groups(recordings: Sequence[Recording], frames: Mapping[str, int]) -> dict[str, int]:
    """Divides recordings by group, so that each fold has a similar share of the frames of each scene.

    Groups are placed one by one, the longest first; of equally long ones, the one with the first path. Each goes to the fold that
    holds least of its scenes: the least sum over scenes s of (share of s in the fold) * (share of s in the group). Of equal folds
    it goes to the one with the fewest frames, then to the first one. With `FOLDS` groups or more, no fold is empty.

    Args:
      recordings: each without a group is a group of its own.
      frames: path of a recording -> its number of frames, at least 1.

    Returns:
      Path of a recording -> fold, 1 to `FOLDS`.
    """
    groups = list_groups(recordings)
    group_frames = [_count_scene_frames(group, frames) for group in groups]
    total = _count_scene_frames(recordings, frames)
    folds: list[collections.Counter[str]] = [collections.Counter() for _ in range(FOLDS)]
    assigned: dict[str, int] = {}
    for index in sorted(range(len(groups)), key=lambda index: -group_frames[index].total()):
        added = group_frames[index]

        def measure_overlap(fold: int, added=added) -> tuple[float, int]:
            held = folds[fold]
            shares = ((held[scene] / total[scene]) * (count / total[scene]) for scene, count in sorted(added.items()))
            return sum(shares), held.total()

        fold = min(range(FOLDS), key=measure_overlap)
        folds[fold].update(added)
        assigned |= {recording.path: fold + 1 for recording in groups[index]}
    return assigned


def list_groups(recordings: Sequence[Recording]) -> list[list[Recording]]:
    """Lists the recordings of each group, ordered by path, and the groups by their first path."""
    groups: dict[tuple[str, str], list[Recording]] = {}
    for recording in sorted(recordings, key=lambda recording: recording.path):
        groups.setdefault((recording.group, "" if recording.group else recording.path), []).append(recording)
    return list(groups.values())


def _count_scene_frames(recordings: Sequence[Recording], frames: Mapping[str, int]) -> collections.Counter[str]:
    counts: collections.Counter[str] = collections.Counter()
    for recording in recordings:
        counts[recording.scene] += frames[recording.path]
    return counts
