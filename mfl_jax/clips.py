"""From (recording, label list) to clips: the one way from annotated audio to the examples of a data set."""

import concurrent.futures
import concurrent.futures.process
import contextlib
import dataclasses
import multiprocessing
import os
import pathlib
import signal
import tempfile
from collections.abc import Iterator, Sequence

import numpy as np
import rich.progress

from mfl_jax import annotations, audio, features
from mfl_jax.annotations import Recording
from mfl_jax.errors import InputError


def extract_log_mel(path: str, mel: features.MelConfig, weights: tuple[np.ndarray, np.ndarray], out: str) -> tuple[int, int]:
    """Writes the log-mel spectrogram of a recording to a raw file, piece by piece.

    Args:
      path: the recording. mel: the settings. weights: `features.weights_of(mel)`. out: where the float32 frames go.

    Returns:
      The number of frames, and of those among them that are silent throughout.
    """
    frames = silent = 0
    with open(out, "wb") as file:
        for piece in features.stream_log_mel(audio.stream_mono(path, mel.sample_rate_hz), mel, weights):
            piece.tofile(file)
            frames += len(piece)
            silent += int((piece.max(axis=1) < np.log(mel.floor) + 1e-3).sum())
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

    Every process writes the spectrogram of one recording to a temporary file, which is cut here: memory stays bounded by a
    few seconds of audio a process, whatever the length of a recording. The remainder of a recording becomes a last clip,
    padded with silence; `valid_frames` tells where it ends.

    Args:
      recordings: as `annotations.read_label_list` returns them. root: the folder that their paths start from.
      events: the vocabulary. mel: the settings of the spectrograms. clip_frames: length of a clip.
      notes: collects oddities. what: name of the work, for the progress bar.
      jobs: processes; by default as many as there are cores. One works without starting any.

    Yields:
      (key, {"log_mel", "events", "scene", "valid_frames", "recording", "clip_start_s"}), in no given order.

    Raises:
      InputError: a recording is missing, unreadable or empty.
    """
    check_recordings(recordings, root)
    jobs = min(jobs or len(os.sched_getaffinity(0)), len(recordings))
    weights = features.weights_of(mel)
    bar = rich.progress.Progress(
        "{task.description}", rich.progress.BarColumn(), rich.progress.MofNCompleteColumn(), "recordings",
        rich.progress.TimeRemainingColumn(), "left", console=rich.console.Console(stderr=True),
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="mfl_jax_") as spool, _processes(jobs) as submit, bar:
        task = bar.add_task(what, total=len(recordings))
        waiting: dict[concurrent.futures.Future, tuple[Recording, str]] = {}
        for number, recording in enumerate(recordings):
            out = os.path.join(spool, f"{number}.f32")
            waiting[submit(extract_log_mel, str(root / recording.path), mel, weights, out)] = (recording, out)
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
def _processes(jobs: int):
    """Yields a function that submits a call: to `jobs` processes, or to this one where that is enough."""
    if jobs <= 1:

        def submit(function, *arguments):
            future = concurrent.futures.Future()
            future.set_result(function(*arguments))
            return future

        yield submit
        return
    # Spawned, since a fork of a process that holds JAX's threads may hang; one BLAS thread each, since all cores have one.
    limited = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    before = {name: os.environ.get(name) for name in limited}
    os.environ.update(limited)
    # Ctrl-C goes to every process of the terminal; this one alone answers it.
    pool = concurrent.futures.ProcessPoolExecutor(
        jobs, multiprocessing.get_context("spawn"), initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
    )
    try:
        yield pool.submit
    except concurrent.futures.process.BrokenProcessPool:
        raise InputError(
            "a process that extracts features was killed: out of memory, or started by a script without "
            "`if __name__ == '__main__':`, which its processes then run again"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


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
