"""Reads recordings of any rate and channel count as mono blocks, in bounded memory."""

import contextlib
import itertools
import os
import pathlib
import threading
import warnings
from collections.abc import Iterator

import numpy as np
import scipy.io.wavfile
import soundfile
import soxr

from mfl_jax.errors import InputError

BLOCK_S = 20.0
"""Seconds of audio in memory at a time."""


def stream_mono(path: str | pathlib.Path, sample_rate_hz: int) -> Iterator[np.ndarray]:
    """Yields a recording as consecutive mono blocks.

    Channels are averaged; other rates are resampled to `sample_rate_hz` by soxr (high quality). Samples that are not finite
    (possible in floating-point files) are an error, since a single one would spoil every frame it touches.

    Args:
      path: WAV, FLAC, OGG, MP3, AIFF or any other format of libsndfile; also WAV with integers of 33 to 64 bits, which are read
        into memory at once if they have fewer than 64 bits.
      sample_rate_hz: rate of the blocks.

    Yields:
      float32 arrays [shape=(n,)], full scale +-1.

    Raises:
      InputError: the file is missing, unreadable or empty, or has samples that are not finite.
    """
    path = pathlib.Path(path)
    if (name := str(path).encode(errors="replace").decode()) != str(path):
        raise InputError(f"{name}: the name of this recording is not valid UTF-8; rename it")
    if not path.is_file():
        raise InputError(f"{path}: no such recording")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: not readable (no permission)")
    if path.suffix.lower() == ".raw":
        raise InputError(f"{path}: not readable as audio (a .raw file does not state its rate and format); convert it to WAV")
    samples = resampled = 0
    try:
        with _open_recording(path) as (rate, blocks):
            resampler = None if rate == sample_rate_hz else soxr.ResampleStream(rate, sample_rate_hz, 1, dtype="float32")
            for block in blocks:
                mono = sum(block.T) / block.shape[1]  # np.mean is many times slower over such a short axis
                if not np.isfinite(mono).all():
                    invalid = samples + int(np.argmin(np.isfinite(mono)))
                    raise InputError(f"{path}: sample {invalid} ({invalid / rate:.3f} s) is not finite; repair the file")
                samples += len(mono)
                last = mono
                if resampler is not None:
                    mono = resampler.resample_chunk(mono)
                    resampled += len(mono)
                yield mono
    except soundfile.LibsndfileError as error:
        raise InputError(f"{path}: not readable as audio ({error.error_string.rstrip('.')})") from None
    if not samples:
        raise InputError(f"{path}: the recording is empty (0 samples); leave it out")
    if resampler is not None:
        mono = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
        # A recording shorter than one sample of the new rate becomes one sample.
        yield mono if len(mono) or resampled else last.mean(keepdims=True)


@contextlib.contextmanager
def _open_recording(path: pathlib.Path) -> Iterator[tuple[int, Iterator[np.ndarray]]]:
    """Yields the rate of a file and an iterator over blocks of its samples, float32 [shape=(n, channels)]."""
    try:
        file = soundfile.SoundFile(path)
    except soundfile.LibsndfileError as error:
        if (wide_wav := _read_wide_wav(path)) is None:
            raise error from None
        rate, samples = wide_wav
        length = _samples_per_block(rate)
        # Full scale is 2^63 for any number of bits, since scipy aligns narrower integers to the upper end.
        yield rate, ((samples[start : start + length] / 2.0**63).astype(np.float32) for start in range(0, len(samples), length))
        return
    with file:
        length = _samples_per_block(file.samplerate)
        blocks = (file.read(length, dtype="float32", always_2d=True) for _ in itertools.count())
        yield file.samplerate, itertools.takewhile(len, blocks)


def _samples_per_block(rate: int) -> int:
    return max(1, round(BLOCK_S * rate))


_warnings_lock = threading.Lock()  # warning filters belong to the process, not to a thread


def _read_wide_wav(path: pathlib.Path) -> tuple[int, np.ndarray] | None:
    """Reads a WAV file with integers of more than 32 bits, which libsndfile does not support.

    Returns:
      The rate and the samples, int64 [shape=(n, channels)]; None for any other file.
    """
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.io.wavfile.WavFileWarning)
        for mapped in (True, False):  # scipy can map 64-bit samples only
            with contextlib.suppress(Exception):  # scipy raises many kinds of errors for broken files
                rate, samples = scipy.io.wavfile.read(path, mmap=mapped)
                if samples.dtype == np.int64 and rate > 0:
                    return rate, samples.reshape(len(samples), -1)
    return None
