"""The first stage of preparing: the log-mel spectrogram of each recording, computed once and kept until the data set is whole.

A spectrogram is a raw file of float32 frames. Beside it lies a JSON that says which recording it is of: its size, its time of
change, the settings, and the SHA-256 sum of its bytes. A preparation that was broken off goes on with what is kept.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from mfl_jax.data import audio_reader, mel_spectrogram
from mfl_jax.data.annotation import Recording
from mfl_jax.runtime.progress import progress_bar

FORMAT = 1
"""Counts up when the same recording and settings come to mean other frames: what is kept of an older count is computed again."""
LOOKING = 16
"""Threads that look for what is kept; the waiting is for the file system."""


def extract_log_mel(path: str, mel: mel_spectrogram.MelConfig, out: str, stop: threading.Event | None = None) -> tuple[int, int]:
    """Writes the log-mel spectrogram of a recording to a raw file, piece by piece.

    Args:
      path: the recording. mel: the settings. out: where the float32 frames go. stop: once set, no further piece is computed.

    Returns:
      The number of frames, and of those among them that are silent throughout.
    """
    frames = silent = 0
    with open(out, "wb") as file:
        for piece in mel_spectrogram.stream_log_mel(audio_reader.stream_mono(path, mel.sample_rate_hz), mel):
            file.write(np.ascontiguousarray(piece))
            frames += len(piece)
            silent += int((piece.max(axis=1) < np.log(mel.floor) + 1e-3).sum())
            if stop is not None and stop.is_set():
                break
    return frames, silent


@dataclasses.dataclass(frozen=True)
class Spectrogram:
    """A spectrogram that is kept.

    Attributes:
      file: raw float32 [shape=(frames, mel_bins)].
      frames: how many there are. silent: how many of them are silent throughout.
      sha256: of the bytes of the recording.
    """

    file: str
    frames: int
    silent: int
    sha256: str


def find(path: str, *, root: pathlib.Path, folder: pathlib.Path, mel: mel_spectrogram.MelConfig) -> Spectrogram | None:
    """The spectrogram that is kept of a recording; None where there is none, or one of another state of it or other settings.

    Args:
      path: of the recording, below `root`. folder: what keeps the spectrograms. mel: the settings.
    """
    file = _place(folder, path)
    try:
        kept = json.loads(file.with_suffix(".json").read_bytes())
        whole = file.stat().st_size == kept["frames"] * mel.mel_bins * np.dtype(np.float32).itemsize
        if whole and kept["of"] == _state(root / path, mel):
            return Spectrogram(str(file), kept["frames"], kept["silent"], kept["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # whatever can't be read is computed again
    return None


def keep(
    path: str, *, root: pathlib.Path, folder: pathlib.Path, mel: mel_spectrogram.MelConfig, stop: threading.Event | None = None
) -> Spectrogram:
    """Computes the spectrogram of a recording, unless it is kept already. Several may do so at once, on several machines.

    Args:
      path, root, folder, mel: as for `find`. stop: once set, the work is given up.

    Raises:
      InputError: the recording is missing, unreadable or empty.
      OSError: `folder` can't be written to.
      concurrent.futures.CancelledError: `stop` was set.
    """
    if found := find(path, root=root, folder=folder, mel=mel):
        return found
    file, of = _place(folder, path), _state(root / path, mel)
    file.parent.mkdir(parents=True, exist_ok=True)
    # A core for each call: there are as many calls at once as cores, and products have the same bits wherever they are computed.
    with atomic_folder(file) as part, mel_spectrogram.one_core_per_thread():
        frames, silent = extract_log_mel(str(root / path), mel, str(part), stop)
        if stop is not None and stop.is_set():
            raise concurrent.futures.CancelledError
    with open(root / path, "rb") as recording:
        sha256 = hashlib.file_digest(recording, "sha256").hexdigest()
    # Last, since it vouches for the other.
    about = {"recording": path, "frames": frames, "silent": silent, "sha256": sha256, "of": of}
    with atomic_folder(file.with_suffix(".json")) as part:
        part.write_text(json.dumps(about), encoding="utf-8")
    return Spectrogram(str(file), frames, silent, sha256)


def _place(folder: pathlib.Path, path: str) -> pathlib.Path:
    """Paths of recordings may be too long for names; and no folder gets more than a share of the files."""
    name = hashlib.sha256(path.encode()).hexdigest()[:32]
    return folder / name[:2] / f"{name}.f32"


def _state(recording: pathlib.Path, mel: mel_spectrogram.MelConfig) -> dict | None:
    try:
        seen = recording.stat()
    except OSError:
        return None  # decoding says better what is wrong
    return {"format": FORMAT, "mel": dataclasses.asdict(mel), "bytes": seen.st_size, "modified_ns": seen.st_mtime_ns}


@contextlib.contextmanager
def atomic_folder(file: pathlib.Path) -> Iterator[pathlib.Path]:
    """As `settings.aside`, for several machines, on which processes may have the same number."""
    part = file.with_name(f"{file.name}.{uuid.uuid4().hex}.part")
    try:
        yield part
        part.replace(file)
    except OSError as error:
        error.filename = error.filename or str(file)  # a full disk names none
        raise
    finally:
        part.unlink(missing_ok=True)


def find_all(paths: Iterable[str], **places) -> dict[str, Spectrogram]:
    """What is kept of some recordings, by path; `places` as for `find`."""
    if not places["folder"].is_dir():
        return {}
    paths = list(paths)
    with concurrent.futures.ThreadPoolExecutor(LOOKING) as pool:
        found = pool.map(functools.partial(find, **places), paths)
        return {path: kept for path, kept in zip(paths, found, strict=True) if kept}


def keep_all(
    recordings: Sequence[Recording], *, mel: mel_spectrogram.MelConfig, what: str, jobs: int | None = None, **places
) -> Iterator[tuple[Recording, Spectrogram]]:
    """Computes the spectrograms of recordings on all cores of this machine, with a progress bar.

    Memory is bounded by a few seconds of audio a thread, whatever the length of a recording.

    Args:
      recordings: their paths start from `root`. mel: the settings. what: name of the work, for the progress bar.
      jobs: threads that decode and transform; by default as many as there are cores.
      **places: `root` and `folder`, as for `find`.

    Yields:
      (recording, its spectrogram), as they get done. No more than a few are computed before they are asked for.

    Raises:
      InputError, OSError: as `keep`, for the first of the recordings.
    """
    jobs = max(1, min(jobs or len(os.sched_getaffinity(0)), len(recordings)))
    with _threads(jobs) as submit, progress_bar("recordings, {task.fields[rate]:.0f} x real time,") as bar:
        task = bar.add_task(what, total=len(recordings), rate=0.0)
        started, seconds = time.monotonic(), 0.0
        waiting: dict[concurrent.futures.Future, Recording] = {}
        for number, recording in enumerate(recordings, 1):
            waiting[submit(recording.path, mel=mel, **places)] = recording
            while waiting and (number == len(recordings) or len(waiting) > 2 * jobs):
                done, _ = concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in done:
                    spectrogram = future.result()
                    seconds += spectrogram.frames * mel.hop_s
                    bar.update(task, advance=1, rate=seconds / (time.monotonic() - started))
                    yield waiting.pop(future), spectrogram


@contextlib.contextmanager
def _threads(jobs: int):
    """Yields a function that submits a call of `keep`; what is left of the calls at the end is not finished."""
    stop = threading.Event()
    # Threads are enough: decoding, transforms and products all let others run.
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        try:
            yield functools.partial(pool.submit, keep, stop=stop)
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
