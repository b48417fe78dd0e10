"""Plans the clips of a recording and builds their examples, the same way for every data set."""

import dataclasses
import pathlib
import stat
from collections.abc import Iterator, Sequence

import numpy as np

from mfl_jax.data import annotation, mel_spectrogram
from mfl_jax.data.annotation import Event, Recording
from mfl_jax.data.spectrogram_cache import Spectrogram
from mfl_jax.errors import InputError, join_first


@dataclasses.dataclass
class Anomalies:
    """Unusual cases among the recordings of a split that are not errors, for one warning per kind.

    Attributes:
      past_end: events that end after their recording.
      after_end: events that start after the end of their recording.
    """

    past_end: list[str] = dataclasses.field(default_factory=list)
    after_end: list[str] = dataclasses.field(default_factory=list)

    def lines(self) -> list[str]:
        """Returns one line per kind, with the number of cases and the first one."""
        kinds = {
            "events end after their recording and were cut off there": self.past_end,
            "events start after the end of their recording and were left out": self.after_end,
        }
        return [f"{len(cases)} {kind}; the first: {cases[0]}" for kind, cases in kinds.items() if cases]


def check_recordings(recordings: Sequence[Recording], root: pathlib.Path) -> None:
    """Checks that the files of all recordings exist.

    Raises:
      InputError: names the recordings that are missing or in a folder without permission.
    """
    missing = []
    for recording in recordings:
        try:
            if not stat.S_ISREG((root / recording.path).stat().st_mode):
                missing.append(f"{recording.path} (not a file)")
        except FileNotFoundError:
            missing.append(recording.path)
        except OSError as error:
            missing.append(f"{recording.path} ({error.strerror})")
    if missing:
        raise InputError(f"{len(missing)} of {len(recordings)} recordings are missing in {root}: {join_first(missing)}")


@dataclasses.dataclass(frozen=True, slots=True)
class Clip:
    """The plan of a clip: where its example comes from.

    Attributes:
      recording: path of the recording.
      spectrogram: file of its spectrogram.
      scene: its scene; empty if it is not annotated.
      fold: cross-validation fold that holds the recording out; 0 for none.
      first_frame: frame of the recording at which the clip starts.
      valid_frames: frames before the padding.
      events: all events of the recording that reach into the clip, and possibly others nearby.
      events_annotated: whether the events of the recording are annotated.
    """

    recording: str
    spectrogram: str
    scene: str
    fold: int
    first_frame: int
    valid_frames: int
    events: tuple[Event, ...]
    events_annotated: bool

    @property
    def key(self) -> str:
        """Key of the example."""
        return f"{self.recording}@{self.first_frame:09d}"

    def to_row(self) -> list:
        """Returns the clip as a JSON list; `from_row` is the inverse."""
        events = [[event.onset_s, event.offset_s, event.label, event.row] for event in self.events]
        fields = (self.recording, self.spectrogram, self.scene, self.fold, self.first_frame, self.valid_frames)
        return [*fields, events, self.events_annotated]

    @classmethod
    def from_row(cls, row: Sequence) -> "Clip":
        """Rebuilds a clip from `to_row`."""
        recording, spectrogram, scene, fold, first_frame, valid_frames, events, events_annotated = row
        parsed = tuple(Event(*event) for event in events)
        return cls(recording, spectrogram, scene, fold, first_frame, valid_frames, parsed, events_annotated)


def plan_clips(
    recording: Recording,
    spectrogram: Spectrogram,
    *,
    mel: mel_spectrogram.MelConfig,
    clip_frames: int,
    anomalies: Anomalies,
    fold: int = 0,
) -> Iterator[Clip]:
    """Plans the clips of a recording.

    The remainder of a recording becomes a last clip, padded with silence; `valid_frames` marks its end.

    Args:
      recording: from `label_list.read_label_list`.
      spectrogram: spectrogram of the recording.
      mel: settings of the spectrogram.
      clip_frames: length of a clip.
      anomalies: collects unusual cases.
      fold: cross-validation fold of the recording.
    """
    end_s, clip_s = spectrogram.frames * mel.hop_s, clip_frames * mel.hop_s
    starts = range(0, spectrogram.frames, clip_frames)
    clip_events: list[list[Event]] = [[] for _ in starts]
    for event in recording.events:
        times = f"from {event.onset_s:.6f} to {event.offset_s:.6f} s of {end_s:.2f} s"
        place = f"{recording.path}, row {event.row}, {event.label!r} {times}"
        if event.onset_s >= end_s:
            anomalies.after_end.append(place)
            continue
        if event.offset_s > end_s:
            anomalies.past_end.append(place)
        # One clip more on either side, so that rounding loses none; `events_to_frames` decides exactly.
        for index in range(max(0, int(event.onset_s / clip_s) - 1), min(len(starts), int(event.offset_s / clip_s) + 2)):
            clip_events[index].append(event)
    for start, events in zip(starts, clip_events, strict=True):
        valid = min(clip_frames, spectrogram.frames - start)
        yield Clip(
            recording.path, spectrogram.file, recording.scene, fold, start, valid, tuple(events), recording.events_annotated
        )  # fmt: skip


def build_example(clip: Clip, *, events: Sequence[str], mel: mel_spectrogram.MelConfig, clip_frames: int) -> dict:
    """Builds the example of a clip.

    Args:
      clip: plan of the clip.
      events: the vocabulary.
      mel: settings of the spectrogram.
      clip_frames: length of a clip.

    Returns:
      `log_mel` float32 [shape=(clip_frames, M)], `events` bool [shape=(clip_frames, E)], `events_annotated`, `scene`,
      `valid_frames`, `recording`, `clip_start_s`, `fold`.
    """
    valid, start = clip.valid_frames, clip.first_frame
    log_mel = np.full((clip_frames, mel.mel_bins), np.log(np.float32(mel.floor)), np.float32)
    offset = start * mel.mel_bins * log_mel.itemsize
    log_mel[:valid] = np.fromfile(clip.spectrogram, np.float32, valid * mel.mel_bins, offset=offset).reshape(valid, -1)
    active = np.zeros((clip_frames, len(events)), bool)
    active[:valid] = annotation.events_to_frames(
        clip.events, events, valid, first_frame=start, hop_samples=mel.hop_samples, sample_rate_hz=mel.sample_rate_hz
    )
    return {
        "log_mel": log_mel,
        "events": active,
        "events_annotated": clip.events_annotated,
        "scene": clip.scene or -1,  # TFDS: no label
        "valid_frames": valid,
        "recording": clip.recording,
        "clip_start_s": start * mel.hop_s,
        "fold": clip.fold,
    }
