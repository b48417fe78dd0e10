"""From recordings, their label lists and their spectrograms to clips: the one way to the examples of a data set."""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from mfl_jax.data import annotation, mel_spectrogram
from mfl_jax.data.annotation import Event, Recording
from mfl_jax.data.spectrogram_cache import Spectrogram
from mfl_jax.errors import InputError


@dataclasses.dataclass
class Oddities:
    """What was odd about the recordings of a split without being an error, for one line each."""

    past_end: list[str] = dataclasses.field(default_factory=list)
    after_end: list[str] = dataclasses.field(default_factory=list)
    silent: list[str] = dataclasses.field(default_factory=list)

    def lines(self) -> list[str]:
        """One line a kind, with the number of cases and the first of them."""
        kinds = {
            "events end after their recording does and were cut there": self.past_end,
            "events start after their recording has ended and were left out": self.after_end,
            "recordings are silent throughout": self.silent,
        }
        return [f"{len(cases)} {what}; the first: {cases[0]}" for what, cases in kinds.items() if cases]


def check_recordings(recordings: Sequence[Recording], root: pathlib.Path) -> None:
    """Raises an InputError that names the first missing recording and counts all of them."""
    missing = [recording.path for recording in recordings if not (root / recording.path).is_file()]
    if missing:
        raise InputError(f"{len(missing)} of {len(recordings)} recordings are missing below {root}; the first: {missing[0]}")


@dataclasses.dataclass(frozen=True, slots=True)
class Clip:
    """A clip that is still to be cut.

    Attributes:
      recording: path of the recording. spectrogram: file of its spectrogram.
      scene: its scene. fold: the cross-validation fold that holds it out, 0 for none.
      first_frame: where the clip begins. valid_frames: how many frames of the recording it holds.
      events: all events of the recording that reach into the clip, and maybe others close to it.
    """

    recording: str
    spectrogram: str
    scene: str
    fold: int
    first_frame: int
    valid_frames: int
    events: tuple[Event, ...]

    @property
    def key(self) -> str:
        """The key of the example."""
        return f"{self.recording}@{self.first_frame:09d}"

    def row(self) -> list:
        """The clip as JSON holds it; `of_row` is the way back."""
        events = [[event.onset_s, event.offset_s, event.label, event.row] for event in self.events]
        return [self.recording, self.spectrogram, self.scene, self.fold, self.first_frame, self.valid_frames, events]

    @classmethod
    def of_row(cls, row: Sequence) -> "Clip":
        """The clip of a row."""
        *fields, events = row
        return cls(*fields, tuple(Event(*event) for event in events))


def list_clips(
    recording: Recording,
    spectrogram: Spectrogram,
    *,
    mel: mel_spectrogram.MelConfig,
    clip_frames: int,
    notes: Oddities,
    fold: int = 0,
) -> Iterator[Clip]:
    """Says how a recording is cut into clips.

    The remainder of a recording becomes a last clip, padded with silence; `valid_frames` tells where it ends.

    Args:
      recording: as `annotations.read_label_list` returns it. spectrogram: its spectrogram. fold: its fold.
      mel: the settings of the spectrogram. clip_frames: length of a clip. notes: collects oddities.
    """
    end_s, clip_s = spectrogram.frames * mel.hop_s, clip_frames * mel.hop_s
    starts = range(0, spectrogram.frames, clip_frames)
    events: list[list[Event]] = [[] for _ in starts]
    for event in recording.events:
        times = f"from {event.onset_s:.6f} to {event.offset_s:.6f} s of {end_s:.2f} s"
        place = f"{recording.path}, row {event.row}, {event.label!r} {times}"
        if event.onset_s >= end_s:
            notes.after_end.append(place)
            continue
        if event.offset_s > end_s:
            notes.past_end.append(place)
        # A clip more on either side, so that rounding leaves none out; `events_to_frames` has the last word.
        for number in range(max(0, int(event.onset_s / clip_s) - 1), min(len(starts), int(event.offset_s / clip_s) + 2)):
            events[number].append(event)
    if spectrogram.silent == spectrogram.frames:
        notes.silent.append(recording.path)
    for start, near in zip(starts, events, strict=True):
        valid = min(clip_frames, spectrogram.frames - start)
        yield Clip(recording.path, spectrogram.file, recording.scene, fold, start, valid, tuple(near))


def cut_clip(clip: Clip, *, events: Sequence[str], mel: mel_spectrogram.MelConfig, clip_frames: int) -> dict:
    """Cuts a clip: {"log_mel", "events", "scene", "valid_frames", "recording", "clip_start_s", "fold"}.

    Args:
      clip: which one. events: the vocabulary. mel: the settings of the spectrogram. clip_frames: length of a clip.
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
        "scene": clip.scene,
        "valid_frames": valid,
        "recording": clip.recording,
        "clip_start_s": start * mel.hop_s,
        "fold": clip.fold,
    }
