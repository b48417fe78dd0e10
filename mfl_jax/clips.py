"""From (recording, label list) to clips: the one way from annotated audio to the examples of a data set."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import os
import pathlib
import tempfile
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import rich.progress

from mfl_jax import annotations, audio, features
from mfl_jax.annotations import Recording
from mfl_jax.errors import InputError


def extract_log_mel(path: str, mel: features.MelConfig, out: str, stop: threading.Event | None = None) -> tuple[int, int]:
    """Writes the log-mel spectrogram of a recording to a raw file, piece by piece.

    Args:
      path: the recording. mel: the settings. out: where the float32 frames go. stop: once set, no further piece is computed.

    Returns:
      The number of frames, and of those among them that are silent throughout.
    """
    frames = silent = 0
    with open(out, "wb") as file:
        for piece in features.stream_log_mel(audio.stream_mono(path, mel.sample_rate_hz), mel):
            piece.tofile(file)
            frames += len(piece)
            silent += int((piece.max(axis=1) < np.log(mel.floor) + 1e-3).sum())
            if stop is not None and stop.is_set():
                break
    return frames, silent


@dataclasses.dataclass
class Notes:
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


def clips_of(
    recordings: Sequence[Recording],
    root: pathlib.Path,
    *,
    events: Sequence[str],
    mel: features.MelConfig,
    clip_frames: int,
    notes: Notes,
    what: str,
    jobs: int | None = None,
) -> Iterator[tuple[str, dict]]:
    """Cuts recordings into clips, on all cores, with a progress bar.

    Every thread writes the spectrogram of one recording to a temporary file, which is cut here: memory stays bounded by a
    few seconds of audio a thread, whatever the length of a recording. The remainder of a recording becomes a last clip,
    padded with silence; `valid_frames` tells where it ends.

    Args:
      recordings: as `annotations.read_label_list` returns them. root: the folder that their paths start from.
      events: the vocabulary. mel: the settings of the spectrograms. clip_frames: length of a clip.
      notes: collects oddities. what: name of the work, for the progress bar.
      jobs: threads that decode and transform; by default as many as there are cores.

    Yields:
      (key, {"log_mel", "events", "scene", "valid_frames", "recording", "clip_start_s"}), in no given order.

    Raises:
      InputError: a recording is missing, unreadable or empty.
    """
    check_recordings(recordings, root)
    jobs = min(jobs or len(os.sched_getaffinity(0)), len(recordings))
    bar = rich.progress.Progress(
        "{task.description}", rich.progress.BarColumn(), rich.progress.MofNCompleteColumn(), "recordings",
        rich.progress.TimeRemainingColumn(), "left", console=rich.console.Console(stderr=True),
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="mfl_jax_") as spool, _threads(jobs) as submit, bar:
        task = bar.add_task(what, total=len(recordings))
        waiting: dict[concurrent.futures.Future, tuple[Recording, str]] = {}
        for number, recording in enumerate(recordings):
            out = os.path.join(spool, f"{number}.f32")
            waiting[submit(str(root / recording.path), mel, out)] = (recording, out)
            # No more than a few spectrograms lie in the temporary folder at a time.
            last = number + 1 == len(recordings)
            while waiting and (last or len(waiting) > 2 * jobs):
                done, _ = concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in done:
                    recording_done, spooled = waiting.pop(future)
                    frames, silent = future.result()
                    yield from _cut(recording_done, spooled, frames, silent, events, mel, clip_frames, notes)
                    os.unlink(spooled)
                    bar.advance(task)


@contextlib.contextmanager
def _threads(jobs: int):
    """Yields a function that submits a call of `extract_log_mel`; what is left of the calls at the end is not finished."""
    stop = threading.Event()
    # Threads are enough: decoding, transforms and products all let others run. Each has a core, so products get no more.
    with features.one_core_a_thread(), concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        try:
            yield functools.partial(pool.submit, extract_log_mel, stop=stop)
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _cut(recording, spooled, frames, silent, events, mel, clip_frames, notes) -> Iterator[tuple[str, dict]]:
    end_s = frames * mel.hop_s
    kept = []
    for event in recording.events:
        times = f"from {event.onset_s:.6f} to {event.offset_s:.6f} s of {end_s:.2f} s"
        place = f"{recording.path}, row {event.row}, {event.label!r} {times}"
        if event.onset_s >= end_s:
            notes.after_end.append(place)
            continue
        if event.offset_s > end_s:
            notes.past_end.append(place)
        kept.append(event)
    if silent == frames:
        notes.silent.append(recording.path)
    log_mel = np.memmap(spooled, np.float32, "r", shape=(frames, mel.mel_bins))
    for start in range(0, frames, clip_frames):
        valid = min(clip_frames, frames - start)
        clip = np.full((clip_frames, mel.mel_bins), np.log(np.float32(mel.floor)), np.float32)
        clip[:valid] = log_mel[start : start + valid]
        active = np.zeros((clip_frames, len(events)), bool)
        active[:valid] = annotations.events_to_frames(
            kept, events, valid, first_frame=start, hop_samples=mel.hop_samples, sample_rate_hz=mel.sample_rate_hz
        )
        yield (
            f"{recording.path}@{start:09d}",
            {
                "log_mel": clip,
                "events": active,
                "scene": recording.scene,
                "valid_frames": valid,
                "recording": recording.path,
                "clip_start_s": start * mel.hop_s,
            },
        )
