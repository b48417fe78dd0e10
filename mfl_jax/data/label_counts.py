"""Counts what labels hold: recordings, minutes and events of each class."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mfl_jax.data.annotation import Recording


class Count(NamedTuple):
    """Counts of a class.

    Attributes:
      recordings: that have the class.
      events: of the class; None for a scene.
      minutes: of the recordings of a scene, or of the events.
    """

    recordings: int
    events: int | None
    minutes: float


def count_scenes(recordings: Sequence[Recording], seconds: Mapping[str, float]) -> dict[str, Count]:
    """Counts the recordings of each scene; `seconds` maps the path of a recording to its length."""
    counts = {}
    for scene in sorted({recording.scene for recording in recordings} - {""}):
        paths = [recording.path for recording in recordings if recording.scene == scene]
        counts[scene] = Count(len(paths), None, sum(seconds[path] for path in paths) / 60)
    return counts


def count_events(recordings: Sequence[Recording]) -> dict[str, Count]:
    """Counts the events of each label; overlapping events count twice."""
    found = [(event, recording.path) for recording in recordings for event in recording.events]
    counts = {}
    for label in sorted({event.label for event, _ in found}):
        events = [(event, path) for event, path in found if event.label == label]
        minutes = sum(event.offset_s - event.onset_s for event, _ in events) / 60
        counts[label] = Count(len({path for _, path in events}), len(events), minutes)
    return counts
