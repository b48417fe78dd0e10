"""Sound events and recordings as their annotations describe them, and events as frames."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Event:
    """A sound event: [onset_s, offset_s) seconds from the start of its recording, and where the list says so."""

    onset_s: float
    offset_s: float
    label: str
    row: int = 0


@dataclasses.dataclass(frozen=True)
class Recording:
    """A recording as a label list describes it: its path below the audio folder, its one scene, its events."""

    path: str
    scene: str
    events: tuple[Event, ...]


def events_to_frames(
    events: Sequence[Event],
    labels: Sequence[str],
    frames: int,
    *,
    hop_samples: int,
    sample_rate_hz: int,
    first_frame: int = 0,
) -> np.ndarray:
    """Marks the frames in which each event is active.

    Frame t covers [t, t + 1) hops and is active when an event overlaps it. Times are rounded to whole microseconds
    and compared as integers, since 0.14 / 0.02 is not 7 in floating point. A zero-length event activates the one frame
    that holds it. What lies outside the frames asked for is cut off.

    Args:
      events: the events of a recording, in any order; those of one label may overlap.
      labels: the vocabulary; column m of the result stands for labels[m].
      frames: number of frames to mark.
      hop_samples, sample_rate_hz: a hop lasts their ratio in seconds.
      first_frame: the frame of the recording that row 0 of the result stands for.

    Returns:
      bool [shape=(frames, len(labels))].
    """
    active = np.zeros((frames, len(labels)), bool)
    column = {label: index for index, label in enumerate(labels)}
    hop = hop_samples * 1_000_000  # of 1 / (sample_rate_hz * 10^6) seconds, as the times below
    for event in events:
        onset = round(event.onset_s * 1_000_000) * sample_rate_hz
        offset = round(event.offset_s * 1_000_000) * sample_rate_hz
        first = onset // hop
        last = first + 1 if offset == onset else -(-offset // hop)
        active[max(0, first - first_frame) : max(0, last - first_frame), column[event.label]] = True
    return active
