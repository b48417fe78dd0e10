"""Sound of some detected events, to be listened to: the most and the least confident ones of each class.

The least confident detections are those whose labels teach a model most, and the most confident ones show its systematic errors.
"""

import csv
import dataclasses
import heapq
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import soundfile

from mfl_jax.data import audio_reader
from mfl_jax.errors import InputError, warn
from mfl_jax.inference.finished_recordings import FinishedRecording
from mfl_jax.inference.prediction import DetectedEvent
from mfl_jax.runtime import storage

FOLDER = "clips"
TABLE = "clips.csv"
HEADER = ("clip", "event", "choice", "rank", "confidence", "file", "start", "end", "clip_start")
CHOICES = ("highest", "lowest")
MARGIN_S = 1.0
"""Seconds before and after an event."""
MAX_NAME = 60
"""Characters of a class in the name of its folder."""


@dataclasses.dataclass(frozen=True)
class EventClip:
    """An event to cut out.

    Attributes:
      recording: name of its recording.
      event: the event.
      choice: `highest` or `lowest` confidence of its class.
      rank: 1 for the highest or lowest one.
    """

    recording: str
    event: DetectedEvent
    choice: str
    rank: int

    @property
    def start_s(self) -> float:
        return max(0.0, self.event.onset_s - MARGIN_S)


_Candidate = tuple[float, str, float, DetectedEvent]
"""A confidence, positive or negative, and where and what the event is; sorted by the first three."""


def choose_clips(recordings: Iterable[FinishedRecording], count: int) -> list[EventClip]:
    """Chooses, for each class, the `count` events with the highest confidence, and among the others those with the lowest.

    Of events with the same confidence, the one that comes first by name of the recording and onset is chosen.

    Returns:
      The clips, sorted by class, choice and rank.
    """
    highest: dict[str, list[_Candidate]] = {}
    lowest: dict[str, list[_Candidate]] = {}
    for recording in recordings:
        for event in recording.detected:
            place = recording.recording, event.onset_s, event
            highest.setdefault(event.label, []).append((-event.confidence, *place))
            lowest.setdefault(event.label, []).append((event.confidence, *place))
        for candidates, kept in ((highest, count), (lowest, 2 * count)):  # up to `count` of the lowest are also the highest
            for label, found in candidates.items():
                candidates[label] = heapq.nsmallest(kept, found, key=lambda candidate: candidate[:3])
    clips = []
    for label in sorted(highest):
        taken = {candidate[1:] for candidate in highest[label]}
        others = [candidate for candidate in lowest[label] if candidate[1:] not in taken]
        for choice, chosen in zip(CHOICES, (highest[label], others[:count]), strict=True):
            clips += [EventClip(name, event, choice, rank) for rank, (_, name, _, event) in enumerate(chosen, 1)]
    return clips


def write_clips(clips: Sequence[EventClip], audio_files: Mapping[str, pathlib.Path], rate: int, folder: pathlib.Path) -> None:
    """Writes `CLASS/CHOICE_RANK.wav` for each clip, and `clips.csv` with their recordings and times. Older clips are deleted.

    The sound is mono with 16 bits. A clip whose recording can't be read any more is left out, with a warning.

    Args:
      clips: from `choose_clips`.
      audio_files: file of each recording.
      rate: sampling rate of the clips in Hz.
      folder: output folder, created if needed.

    Raises:
      InputError: the clips can't be written.
    """
    by_recording: dict[str, list[EventClip]] = {}
    for clip in clips:
        by_recording.setdefault(clip.recording, []).append(clip)
    names = _name_clips(clips)
    written = set()
    try:
        _delete_clips(folder)
        for name in dict.fromkeys(map(str, (path.parent for path in names.values()))):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for recording, its_clips in sorted(by_recording.items()):
            paths = {clip: folder / names[clip] for clip in its_clips}
            try:
                _cut(audio_files[recording], rate, paths)
                written.update(its_clips)
            except InputError as error:
                warn(f"{error}; no clips of it")
                for path in paths.values():
                    path.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        _write_table([(names[clip].as_posix(), clip) for clip in clips if clip in written], folder / TABLE)
    except soundfile.LibsndfileError as error:
        raise InputError(f"{folder}: clips can't be written ({error.error_string})") from None
    except OSError as error:
        raise InputError(f"{folder}: clips can't be written ({error.strerror})") from None


def _name_clips(clips: Sequence[EventClip]) -> dict[EventClip, pathlib.PurePosixPath]:
    """Returns the path of each clip. Characters that some systems refuse in names are replaced."""
    folders: dict[str, str] = {}
    for clip in clips:
        label = clip.event.label
        if label not in folders:
            safe = re.sub(r'[\x00-\x1f/\\:*?"<>|]', "_", label)[:MAX_NAME].strip(" .") or "_"
            taken = {folder.lower() for folder in folders.values()}
            folders[label] = safe if safe.lower() not in taken else f"{safe}_{len(folders) + 1}"
    return {clip: pathlib.PurePosixPath(folders[clip.event.label], f"{clip.choice}_{clip.rank:03}.wav") for clip in clips}


def _delete_clips(folder: pathlib.Path) -> None:
    """Deletes the clips of an earlier call, and only these."""
    for file in folder.glob("*/*.wav"):
        if re.fullmatch(rf"({'|'.join(CHOICES)})_\d{{3,}}\.wav", file.name):
            file.unlink()
            if not any(file.parent.iterdir()):
                file.parent.rmdir()


def _cut(audio_file: pathlib.Path, rate: int, out: Mapping[EventClip, pathlib.Path]) -> None:
    """Reads a recording once and writes the clips in it, block by block, since events may last for hours."""
    waiting = {clip: (round(clip.start_s * rate), round((clip.event.offset_s + MARGIN_S) * rate)) for clip in out}
    for clip in waiting:
        soundfile.write(out[clip], np.zeros(0, np.float32), rate, "PCM_16")
    for first, block in _number_blocks(audio_reader.stream_mono(audio_file, rate)):
        for clip, (start, end) in list(waiting.items()):
            part = block[max(0, start - first) : max(0, end - first)]
            if len(part):
                with soundfile.SoundFile(out[clip], "r+") as file:
                    file.seek(0, soundfile.SEEK_END)
                    file.write(part.clip(-1, 1))
            if end <= first + len(block):
                del waiting[clip]
        if not waiting:
            return


def _number_blocks(blocks: Iterable[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    first = 0
    for block in blocks:
        yield first, block
        first += len(block)


def _write_table(rows: Sequence[tuple[str, EventClip]], file: pathlib.Path) -> None:
    with storage.atomic_path(file) as part, part.open("w", encoding="utf-8", errors="replace", newline="") as out:
        table = csv.writer(out, lineterminator="\n")
        table.writerow(HEADER)
        for name, clip in rows:
            event = clip.event
            times = [f"{seconds:.6f}" for seconds in (event.onset_s, event.offset_s, clip.start_s)]
            table.writerow([name, event.label, clip.choice, clip.rank, f"{event.confidence:.6f}", clip.recording, *times])
