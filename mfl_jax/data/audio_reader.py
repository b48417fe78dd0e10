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
"""Seconds of audio that are held at a time."""


def stream_mono(path: str | pathlib.Path, sample_rate_hz: int) -> Iterator[np.ndarray]:
    """Yields a recording as consecutive mono blocks.

    Channels are averaged; another rate is brought to `sample_rate_hz` by soxr (high quality). Samples that are no number
    (possible in files of floats) count as an error, since one of them would spoil every frame it touches.

    Args:
      path: WAV, FLAC, OGG, MP3, AIFF or whatever else libsndfile reads; also WAV with integers of 33 to 64 bits, of which those
        of less than 64 are read as a whole.
      sample_rate_hz: the rate of the blocks.

    Yields:
      float32 arrays [shape=(n,)], full scale +-1.

    Raises:
      InputError: the file is missing, unreadable, empty, or holds samples that are no finite number.
    """
    path = pathlib.Path(path)
    if (name := str(path).encode(errors="replace").decode()) != str(path):
        raise InputError(f"{name}: the name of this recording is no UTF-8; rename it")
    if not path.is_file():
        raise InputError(f"{path}: no such recording")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: not readable (no permission)")
    if path.suffix.lower() == ".raw":
        raise InputError(f"{path}: not readable as audio (a .raw file does not say its rate and format); convert it to WAV")
    samples = resampled = 0
    try:
        with _opened(path) as (rate, blocks):
            resampler = None if rate == sample_rate_hz else soxr.ResampleStream(rate, sample_rate_hz, 1, dtype="float32")
            for block in blocks:
                mono = sum(block.T) / block.shape[1]  # numpy's mean takes many times as long over so short an axis
                if not np.isfinite(mono).all():
                    bad = samples + int(np.argmin(np.isfinite(mono)))
                    raise InputError(f"{path}: sample {bad} ({bad / rate:.3f} s) is no finite number; repair the file")
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
        # What is shorter than a sample of the new rate becomes one.
        yield mono if len(mono) or resampled else last.mean(keepdims=True)


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[tuple[int, Iterator[np.ndarray]]]:
    """Yields the rate of a file and its samples, float32 [shape=(n, channels)], block by block."""
    try:
        file = soundfile.SoundFile(path)
    except soundfile.LibsndfileError as error:
        if (wide := _wide_wav(path)) is None:
            raise error from None
        rate, whole = wide
        length = _block_samples(rate)
        # Full scale is 2^63, whatever the number of bits: fewer than 64 stand at the upper end.
        yield rate, (np.float32(whole[start : start + length] / 2.0**63) for start in range(0, len(whole), length))
        return
    with file:
        length = _block_samples(file.samplerate)
        blocks = (file.read(length, dtype="float32", always_2d=True) for _ in itertools.count())
        yield file.samplerate, itertools.takewhile(len, blocks)


def _block_samples(rate: int) -> int:
    return max(1, round(BLOCK_S * rate))


_one_at_a_time = threading.Lock()  # filters of warnings are those of the process, whichever thread sets them


def _wide_wav(path: pathlib.Path) -> tuple[int, np.ndarray] | None:
    """Rate and samples [shape=(n, channels)] of a WAV file with integers of more than 32 bits, which libsndfile does not read."""
    with _one_at_a_time, warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.io.wavfile.WavFileWarning)
        for mapped in (True, False):  # those of 64 bits stay on the disk
            with contextlib.suppress(Exception):  # whatever scipy makes of a broken file
                rate, samples = scipy.io.wavfile.read(path, mmap=mapped)
                if samples.dtype == np.int64 and rate > 0:
                    return rate, samples.reshape(len(samples), -1)
    return None
