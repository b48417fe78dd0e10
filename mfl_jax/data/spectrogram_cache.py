"""Computes the log-mel spectrogram of each recording once and caches it until the data set is complete.

This is the first stage of preparing. A spectrogram is a raw file of float32 frames. The JSON file next to it identifies the
recording: its size, modification time and SHA-256 sum, and the settings. An interrupted preparation continues from the cache.
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
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from mfl_jax.data import audio_reader, mel_spectrogram
from mfl_jax.data.annotation import Recording
from mfl_jax.data.mel_spectrogram import MelConfig
from mfl_jax.runtime.progress import progress_bar

FORMAT = 1
"""Increase it when the same recording and settings give other frames: older files are then ignored."""
LOOKUP_THREADS = 16
"""Threads that look files up; they mostly wait for the file system."""


def write_log_mel(path: str, mel: MelConfig, out: str, stop: threading.Event | None = None) -> tuple[int, int]:
    """Writes the log-mel spectrogram of a recording to a raw file, block by block.

    Args:
      path: the recording.
      mel: settings of the spectrogram.
      out: file for the float32 frames.
      stop: when set, the work ends after the current block.

    Returns:
      The number of frames, and the number of silent frames among them.
    """
    frames = silent = 0
    with open(out, "wb") as file:
        for piece in mel_spectrogram.stream_log_mel(audio_reader.stream_mono(path, mel.sample_rate_hz), mel):
            file.write(np.ascontiguousarray(piece).data)
            frames += len(piece)
            silent += int((piece.max(axis=1) < np.log(mel.floor) + 1e-3).sum())
            if stop is not None and stop.is_set():
                break
    return frames, silent


@dataclasses.dataclass(frozen=True)
class Spectrogram:
    """A cached spectrogram.

    Attributes:
      file: raw float32 [shape=(frames, mel_bins)].
      frames: number of frames.
      silent: number of silent frames.
      sha256: sum of the recording's bytes.
    """

    file: str
    frames: int
    silent: int
    sha256: str


def find_spectrogram(path: str, *, root: pathlib.Path, folder: pathlib.Path, mel: MelConfig) -> Spectrogram | None:
    """Finds the cached spectrogram of a recording.

    Args:
      path: of the recording, relative to `root`.
      root: folder of the recordings.
      folder: folder of the cache.
      mel: settings of the spectrogram.

    Returns:
      The spectrogram; None if it is missing or the recording or settings have changed since.
    """
    file = _cache_file(folder, path)
    try:
        about = json.loads(file.with_suffix(".json").read_bytes())
        complete = file.stat().st_size == about["frames"] * mel.mel_bins * np.dtype(np.float32).itemsize
        if complete and about["of"] == _describe_source(root / path, mel):
            return Spectrogram(str(file), about["frames"], about["silent"], about["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # unreadable files are computed again
    return None


def cache_spectrogram(
    path: str, *, root: pathlib.Path, folder: pathlib.Path, mel: MelConfig, stop: threading.Event | None = None
) -> Spectrogram:
    """Computes the spectrogram of a recording unless it is cached. Several threads and machines may do so at once.

    Args:
      path, root, folder, mel: see `find_spectrogram`.
      stop: when set, the work is given up.

    Raises:
      InputError: the recording is missing, unreadable or empty.
      OSError: `folder` is not writable.
      concurrent.futures.CancelledError: `stop` was set.
    """
    if cached := find_spectrogram(path, root=root, folder=folder, mel=mel):
        return cached
    file, source = _cache_file(folder, path), _describe_source(root / path, mel)
    file.parent.mkdir(parents=True, exist_ok=True)
    # There are as many calls at once as cores. One core each also makes the result independent of the number of cores.
    with atomic_shared_path(file) as part, mel_spectrogram.one_core_per_thread():
        frames, silent = write_log_mel(str(root / path), mel, str(part), stop)
        if stop is not None and stop.is_set():
            raise concurrent.futures.CancelledError
    with open(root / path, "rb") as recording:
        sha256 = hashlib.file_digest(recording, "sha256").hexdigest()
    # Written last: it marks the spectrogram as complete.
    about = {"recording": path, "frames": frames, "silent": silent, "sha256": sha256, "of": source}
    with atomic_shared_path(file.with_suffix(".json")) as part:
        part.write_text(json.dumps(about), encoding="utf-8")
    return Spectrogram(str(file), frames, silent, sha256)


def _cache_file(folder: pathlib.Path, path: str) -> pathlib.Path:
    """Returns the file of a spectrogram: a hash, since paths may exceed the length of a name, in one of 256 folders."""
    name = hashlib.sha256(path.encode()).hexdigest()[:32]
    return folder / name[:2] / f"{name}.f32"


def _describe_source(recording: pathlib.Path, mel: MelConfig) -> dict | None:
    """Returns everything that invalidates a cached spectrogram when it changes; None for a missing recording."""
    try:
        stat = recording.stat()
    except OSError:
        return None  # decoding reports the error in more detail
    return {"format": FORMAT, "mel": dataclasses.asdict(mel), "bytes": stat.st_size, "modified_ns": stat.st_mtime_ns}


@contextlib.contextmanager
def atomic_shared_path(file: pathlib.Path) -> Iterator[pathlib.Path]:
    """As `storage.atomic_path`, for several machines, whose processes may have the same number."""
    part = file.with_name(f"{file.name}.{uuid.uuid4().hex}.part")
    try:
        yield part
        part.replace(file)
    except OSError as error:
        error.filename = error.filename or str(file)  # the error of a full disk has no file name
        raise
    finally:
        part.unlink(missing_ok=True)


def find_spectrograms(
    paths: Iterable[str], *, root: pathlib.Path, folder: pathlib.Path, mel: MelConfig
) -> dict[str, Spectrogram]:
    """Finds the cached spectrograms of recordings, by path; see `find_spectrogram`."""
    if not folder.is_dir():
        return {}
    paths = list(paths)
    find = functools.partial(find_spectrogram, root=root, folder=folder, mel=mel)
    with concurrent.futures.ThreadPoolExecutor(LOOKUP_THREADS) as pool:
        return {path: cached for path, cached in zip(paths, pool.map(find, paths), strict=True) if cached}


def cache_spectrograms(
    recordings: Sequence[Recording],
    *,
    root: pathlib.Path,
    folder: pathlib.Path,
    mel: MelConfig,
    description: str,
    jobs: int | None = None,
) -> Iterator[tuple[Recording, Spectrogram]]:
    """Computes the spectrograms of recordings on all cores of this machine, with a progress bar.

    Memory is bounded by a few seconds of audio per thread, regardless of the length of a recording.

    Args:
      recordings: recordings in `root`.
      root, folder, mel: see `find_spectrogram`.
      description: for the progress bar.
      jobs: threads that decode and transform; default: one per core.

    Yields:
      Recordings with their spectrograms in the order of completion. Only a few are computed ahead of the caller.

    Raises:
      InputError, OSError: see `cache_spectrogram`; for the first recording that fails.
    """
    jobs = max(1, min(jobs or len(os.sched_getaffinity(0)), len(recordings)))
    compute = functools.partial(cache_spectrogram, root=root, folder=folder, mel=mel)
    with _start_threads(jobs, compute) as submit, progress_bar("recordings, {task.fields[rate]:.0f} x real time,") as bar:
        task = bar.add_task(description, total=len(recordings), rate=0.0)
        started, audio_s = time.monotonic(), 0.0
        pending: dict[concurrent.futures.Future[Spectrogram], Recording] = {}
        for count, recording in enumerate(recordings, 1):
            pending[submit(recording.path)] = recording
            while pending and (count == len(recordings) or len(pending) > 2 * jobs):
                done, _ = concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in done:
                    spectrogram = future.result()
                    audio_s += spectrogram.frames * mel.hop_s
                    bar.update(task, advance=1, rate=audio_s / (time.monotonic() - started))
                    yield pending.pop(future), spectrogram


@contextlib.contextmanager
def _start_threads(
    jobs: int, compute: Callable[..., Spectrogram]
) -> Iterator[Callable[[str], concurrent.futures.Future[Spectrogram]]]:
    """Yields a function that submits a path to `compute` in a thread pool; abandons unfinished calls at the end."""
    stop = threading.Event()
    # Threads suffice: decoding, transforms and matrix products release the GIL.
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        try:
            yield lambda path: pool.submit(compute, path, stop=stop)
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
