"""Reads recordings of any rate and channel count as mono blocks, in bounded memory."""

import pathlib
from collections.abc import Iterator

import numpy as np
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
      path: WAV, FLAC, OGG, MP3 or whatever else libsndfile reads.
      sample_rate_hz: the rate of the blocks.

    Yields:
      float32 arrays [shape=(n,)], full scale +-1.

    Raises:
      InputError: the file is missing, unreadable, empty, or holds samples that are no finite number.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such recording")
    if path.suffix.lower() == ".raw":
        raise InputError(f"{path}: not readable as audio (a .raw file does not say its rate and format); convert it to WAV")
    samples = 0
    try:
        with soundfile.SoundFile(path) as file:
            rate = file.samplerate
            resampler = None if rate == sample_rate_hz else soxr.ResampleStream(rate, sample_rate_hz, 1, dtype="float32")
            block_samples = max(1, round(BLOCK_S * rate))
            while len(block := file.read(block_samples, dtype="float32", always_2d=True)):
                mono = sum(block.T) / block.shape[1]  # numpy's mean takes many times as long over so short an axis
                if not np.isfinite(mono).all():
                    bad = samples + int(np.argmin(np.isfinite(mono)))
                    raise InputError(f"{path}: sample {bad} ({bad / rate:.3f} s) is no finite number; repair the file")
                samples += len(mono)
                yield mono if resampler is None else resampler.resample_chunk(mono)
            if resampler is not None:
                yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
    except soundfile.LibsndfileError as error:
        raise InputError(f"{path}: not readable as audio ({error.error_string.rstrip('.')})") from None
    if not samples:
        raise InputError(f"{path}: the recording is empty (0 samples); remove it and its rows from the label list")
