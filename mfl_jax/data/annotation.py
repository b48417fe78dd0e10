"""Annotated sound events and recordings, and the conversion of events to frames."""

import dataclasses
from collections.abc import Sequence

import numpy as np

NOT_ANNOTATED = "?"
"""In a list, the event label of a recording whose events are not annotated; also accepted as its scene."""


@dataclasses.dataclass(frozen=True)
class Event:
    """A sound event.

    Attributes:
      onset_s, offset_s: seconds from the start of the recording; the event covers [onset_s, offset_s).
      label: its class.
      row: its row in the list it was read from; 0 if unknown.
    """

    onset_s: float
    offset_s: float
    label: str
    row: int = 0


@dataclasses.dataclass(frozen=True)
class Recording:
    """A recording of a label list.

    Attributes:
      path: relative to the folder of the recordings.
      scene: label of its only scene; empty if it is not annotated.
      events: in the order of the list; empty if they are not annotated.
      group: location, session or device, whose recordings are all in one fold; empty for none.
      events_annotated: whether all events are in `events`. False says nothing about which events there are.
    """

    path: str
    scene: str
    events: tuple[Event, ...]
    group: str = ""
    events_annotated: bool = True


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
    that holds it. Parts of events outside the requested frames are ignored.

    Args:
      events: events of a recording, in any order; events with the same label may overlap.
      labels: the vocabulary; column m of the result is labels[m].
      frames: number of frames to mark.
      hop_samples: hop length in samples.
      sample_rate_hz: samples per second.
      first_frame: frame of the recording at row 0 of the result.

    Returns:
      bool [shape=(frames, len(labels))].
    """
    active = np.zeros((frames, len(labels)), bool)
    column = {label: index for index, label in enumerate(labels)}
    hop = hop_samples * 1_000_000  # in units of 1 / (sample_rate_hz * 10^6) seconds, like the times below
    for event in events:
        onset = round(event.onset_s * 1_000_000) * sample_rate_hz
        offset = round(event.offset_s * 1_000_000) * sample_rate_hz
        first = onset // hop
        last = first + 1 if offset == onset else -(-offset // hop)
        active[max(0, first - first_frame) : max(0, last - first_frame), column[event.label]] = True
    return active
