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
from mfl_jax.errors import InputError, join_first, warn
from mfl_jax.runtime.progress import progress_bar

FORMAT = 2
"""Increase it when the same recording and settings give other frames: older files are then ignored."""
LOOKUP_THREADS = 16
"""Threads that look files up; they mostly wait for the file system."""


def write_log_mel(path: str, mel: MelConfig, out: str, stop: threading.Event | None = None) -> tuple[int, str]:
    """Writes the log-mel spectrogram of a recording to a raw file, block by block.

    Args:
      path: the recording.
      mel: settings of the spectrogram.
      out: file for the float32 frames.
      stop: when set, the work ends after the current block.

    Returns:
      The number of frames, and a warning in one line if audio is missing at the end or the signal is suspicious; else "".
    """
    frames = 0
    warnings: list[str] = []
    with open(out, "wb") as file:
        for piece in mel_spectrogram.stream_log_mel(audio_reader.stream_mono(path, mel.sample_rate_hz, warnings.append), mel):
            file.write(np.ascontiguousarray(piece).data)
            frames += len(piece)
            if stop is not None and stop.is_set():
                break
    return frames, "; ".join(warnings)


@dataclasses.dataclass(frozen=True)
class Spectrogram:
    """A cached spectrogram.

    Attributes:
      file: raw float32 [shape=(frames, mel_bins)].
      frames: number of frames.
      warning: see `write_log_mel`.
      sha256: sum of the recording's bytes.
      bytes: size of the recording.
      modified_ns: modification time of the recording.
    """

    file: str
    frames: int
    warning: str
    sha256: str
    bytes: int
    modified_ns: int


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
        source = about["of"]
        if complete and source == _describe_source(root / path, mel):
            return Spectrogram(
                str(file), about["frames"], about["warning"], about["sha256"], source["bytes"], source["modified_ns"]
            )
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
      InputError: the recording is missing, unreadable or empty, or changes meanwhile.
      OSError: `folder` is not writable.
      concurrent.futures.CancelledError: `stop` was set.
    """
    if cached := find_spectrogram(path, root=root, folder=folder, mel=mel):
        return cached
    file, source = _cache_file(folder, path), _describe_source(root / path, mel)
    if source is None:
        raise InputError(f"{root / path}: no such recording")
    file.parent.mkdir(parents=True, exist_ok=True)
    # There are as many calls at once as cores. One core each also makes the result independent of the number of cores.
    with atomic_shared_path(file) as part, mel_spectrogram.one_core_per_thread():
        frames, warning = write_log_mel(str(root / path), mel, str(part), stop)
        if stop is not None and stop.is_set():
            raise concurrent.futures.CancelledError
    sha256 = hash_file(root / path)
    if _describe_source(root / path, mel) != source:
        raise InputError(f"{root / path}: the file changed while it was read; run the same command again")
    # Written last: it marks the spectrogram as complete.
    about = {"recording": path, "frames": frames, "warning": warning, "sha256": sha256, "of": source}
    with atomic_shared_path(file.with_suffix(".json")) as part:
        part.write_text(json.dumps(about), encoding="utf-8")
    return Spectrogram(str(file), frames, warning, sha256, source["bytes"], source["modified_ns"])


def hash_file(file: pathlib.Path) -> str:
    """Returns the SHA-256 sum of a file.

    Raises:
      OSError: it can't be read.
    """
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _cache_file(folder: pathlib.Path, path: str) -> pathlib.Path:
    """Returns the file of a spectrogram: a hash, since paths may exceed the length of a name, in one of 256 folders."""
    name = hashlib.sha256(path.encode()).hexdigest()[:32]
    return folder / name[:2] / f"{name}.f32"


def _describe_source(recording: pathlib.Path, mel: MelConfig) -> dict | None:
    """Returns everything that invalidates a cached spectrogram when it changes; None for a missing recording."""
    try:
        stat = recording.stat()
    except OSError:
        return None
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
    """Finds the cached spectrograms of recordings, by path, and prints their warnings; see `find_spectrogram`."""
    if not folder.is_dir():
        return {}
    paths = list(paths)
    find = functools.partial(find_spectrogram, root=root, folder=folder, mel=mel)
    with concurrent.futures.ThreadPoolExecutor(LOOKUP_THREADS) as pool:
        spectrograms = {path: cached for path, cached in zip(paths, pool.map(find, paths), strict=True) if cached}
    for path, spectrogram in spectrograms.items():
        _print_warning(root / path, spectrogram)
    return spectrograms


def _print_warning(recording: pathlib.Path, spectrogram: Spectrogram) -> None:
    if spectrogram.warning:
        warn(f"{recording}: {spectrogram.warning}")


def cache_spectrograms(
    recordings: Sequence[Recording],
    *,
    root: pathlib.Path,
    folder: pathlib.Path,
    mel: MelConfig,
    description: str,
    jobs: int | None = None,
) -> Iterator[tuple[Recording, Spectrogram]]:
    """Computes the spectrograms of recordings on all cores of this machine, with a progress bar and their warnings.

    Memory is bounded by a few seconds of audio per thread, regardless of the length of a recording.

    Args:
      recordings: recordings in `root`.
      root, folder, mel: see `find_spectrogram`.
      description: for the progress bar.
      jobs: threads that decode and transform; default: one per core.

    Yields:
      Recordings with their spectrograms in the order of completion. Only a few are computed ahead of the caller.

    Raises:
      InputError: recordings can't be read; names them once all others are done.
      OSError: see `cache_spectrogram`.
    """
    jobs = max(1, min(jobs or len(os.sched_getaffinity(0)), len(recordings)))
    compute = functools.partial(cache_spectrogram, root=root, folder=folder, mel=mel)
    with _start_threads(jobs, compute) as submit, progress_bar("recordings, {task.fields[rate]:.0f} x real time,") as bar:
        task = bar.add_task(description, total=len(recordings), rate=0.0)
        started, audio_s = time.monotonic(), 0.0
        pending: dict[concurrent.futures.Future[Spectrogram], Recording] = {}
        refused: dict[str, str] = {}
        for count, recording in enumerate(recordings, 1):
            pending[submit(recording.path)] = recording
            while pending and (count == len(recordings) or len(pending) > 2 * jobs):
                done, _ = concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in done:
                    recording_done = pending.pop(future)
                    try:
                        spectrogram = future.result()
                    except InputError as error:
                        refused[recording_done.path] = str(error)
                        continue
                    _print_warning(root / recording_done.path, spectrogram)
                    audio_s += spectrogram.frames * mel.hop_s
                    bar.update(task, advance=1, rate=audio_s / (time.monotonic() - started))
                    yield recording_done, spectrogram
    if refused:
        raise refusal([refused[recording.path] for recording in recordings if recording.path in refused])


def refusal(reasons: Sequence[str]) -> InputError:
    """Returns the error for recordings that can't be read, from the error of each."""
    if len(reasons) == 1:
        return InputError(reasons[0])
    return InputError(f"{len(reasons)} recordings can't be read: {join_first(reasons, '; ')}")


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
