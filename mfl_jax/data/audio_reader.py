"""Reads recordings of any rate and channel count as mono blocks, in bounded memory."""

import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
import threading
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import scipy.io.wavfile
import soundfile
import soxr

from mfl_jax.data.containers.find_parts import find_parts
from mfl_jax.data.containers.part import Part, PartFile
from mfl_jax.data.signal_checks import SignalChecks
from mfl_jax.errors import InputError

BLOCK_S = 20.0
"""Seconds of audio in memory at a time."""
MIN_IGNORED_S = 0.1
"""Fewer bytes after the samples, such as a short tag, are no cause for a warning."""

MAX_SAMPLE = 1e10
"""Highest sample that is accepted, five times that of 32-bit integers stored as floats. The power of a frame stays finite."""


def stream_mono(
    path: str | pathlib.Path, sample_rate_hz: int, on_warning: Callable[[str], None] | None = None
) -> Iterator[np.ndarray]:
    """Yields a recording as consecutive mono blocks.

    Channels are averaged; other rates are resampled to `sample_rate_hz` by soxr (high quality). Recordings that were joined in
    one file follow each other. Samples that are not finite (possible in floating-point files) are an error, since a single one
    would spoil every frame it touches.

    Args:
      path: WAV, FLAC, OGG, MP3, AIFF or any other format of libsndfile; also WAV with integers of 33 to 64 bits, which are read
        into memory at once if they have fewer than 64 bits.
      sample_rate_hz: rate of the blocks.
      on_warning: called after the last block with one line without the name of the file if audio is missing at the end or the
        signal is suspicious (scale, silence, cancelling channels). Leave it out if the recording was read before.

    Yields:
      float32 arrays [shape=(n,)], full scale +-1.

    Raises:
      InputError: the file is missing, unreadable or empty, audio is missing in its middle, or it has samples that are not finite
        or beyond +-`MAX_SAMPLE`.
    """
    path = pathlib.Path(path)
    _check_file(path)
    checks, samples = SignalChecks(), 0
    findings: list[str] = []
    try:
        parts = find_parts(path)
        for number, part in enumerate(parts, 1):
            with _open_part(path, part) as recording:
                blocks = _average_channels(path, recording, checks, start_s=samples / sample_rate_hz)
                for mono in _resample(blocks, recording.rate, sample_rate_hz):
                    samples += len(mono)
                    yield mono
                prefix = f"recording {number} of the {len(parts)} joined in it: " if len(parts) > 1 else ""
                findings += [prefix + text for text in _describe_losses(recording, part)]
    except soundfile.LibsndfileError as error:
        raise InputError(f"{path}: not readable as audio ({error.error_string.rstrip('.')})") from None
    if not samples:
        raise InputError(f"{path}: the recording is empty (0 samples); leave it out")
    findings += checks.warnings()
    if on_warning is not None and findings:
        on_warning("; ".join(findings))


def stream_array(
    samples: np.ndarray, rate: int, sample_rate_hz: int, name: str, on_warning: Callable[[str], None] | None = None
) -> Iterator[np.ndarray]:
    """Yields samples in memory as `stream_mono` yields those of a file.

    Args:
      samples: floating-point numbers, full scale +-1, or int16 or int32, full scale of their type [shape=(n, channels)], n > 0.
      rate: sampling rate of `samples`.
      sample_rate_hz: rate of the blocks.
      name: of the recording, for error messages.
      on_warning: called after the last block with one line if the signal is suspicious.

    Yields:
      float32 arrays [shape=(n,)], full scale +-1.

    Raises:
      InputError: a sample is not finite or is beyond +-`MAX_SAMPLE`.
    """
    scale = np.float32(-1 / np.iinfo(samples.dtype).min) if samples.dtype.kind == "i" else None
    length = _samples_per_block(rate)

    def to_floats(block: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):  # infinite values are refused below
            floats = block.astype(np.float32)
        return floats if scale is None else floats * scale

    checks, blocks = SignalChecks(), (to_floats(samples[start : start + length]) for start in range(0, len(samples), length))
    yield from _resample(_average_channels(name, _OpenPart(rate, 0, blocks), checks, start_s=0.0), rate, sample_rate_hz)
    if on_warning is not None and (findings := checks.warnings()):
        on_warning("; ".join(findings))


def _check_file(path: pathlib.Path) -> None:
    if (name := str(path).encode(errors="replace").decode()) != str(path):
        raise InputError(f"{name}: the name of this recording is not valid UTF-8; rename it")
    if path.is_dir():
        permission = "" if os.access(path, os.R_OK | os.X_OK) else " without permission"
        raise InputError(f"{path}: not readable (a folder{permission})")
    if not path.is_file():
        raise InputError(f"{path}: no such recording")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: not readable (no permission)")
    if path.suffix.lower() == ".raw":
        raise InputError(f"{path}: not readable as audio (a .raw file does not state its rate and format); convert it to WAV")


@dataclasses.dataclass
class _OpenPart:
    """A recording that is being read.

    Attributes:
      rate: its sampling rate.
      promised: number of samples per channel according to the decoder; 0 if unknown.
      blocks: its samples, float32 [shape=(n, channels)].
      samples: number of samples per channel read so far.
    """

    rate: int
    promised: int
    blocks: Iterator[np.ndarray]
    samples: int = 0


def _average_channels(
    name: str | pathlib.Path, recording: _OpenPart, checks: SignalChecks, start_s: float
) -> Iterator[np.ndarray]:  # fmt: skip
    """Yields the blocks of a recording, which starts `start_s` into `name`, as mono; checks and counts their samples."""
    for block in recording.blocks:
        low, high = float(block.min()), float(block.max())  # not a number if any sample is
        if not -MAX_SAMPLE <= low <= high <= MAX_SAMPLE:
            valid = (np.abs(block) <= MAX_SAMPLE).all(axis=1)
            value = block[np.argmin(valid)]
            index = recording.samples + int(np.argmin(valid))
            reason = f"is {np.abs(value).max():g}, far beyond full scale (1)" if np.isfinite(value).all() else "is not finite"
            raise InputError(f"{name}: sample {index} ({start_s + index / recording.rate:.3f} s) {reason}; repair it")
        # np.mean is many times slower over such a short axis.
        mono = functools.reduce(np.add, block.T)
        if block.shape[1] > 1:
            mono /= block.shape[1]
        checks.add(block, mono, low, high)
        recording.samples += len(mono)
        yield mono


def _resample(blocks: Iterator[np.ndarray], rate: int, new_rate: int) -> Iterator[np.ndarray]:
    """Resamples the mono blocks of a recording."""
    if rate == new_rate:
        yield from blocks
        return
    resampler = soxr.ResampleStream(rate, new_rate, 1, dtype="float32")
    resampled, last = 0, np.zeros(0, np.float32)
    for last in blocks:
        mono = resampler.resample_chunk(last)
        resampled += len(mono)
        yield mono
    if len(last):
        mono = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
        # A recording shorter than one sample of the new rate becomes one sample.
        yield mono if len(mono) or resampled else last.mean(keepdims=True)


def _describe_losses(recording: _OpenPart, part: Part) -> list[str]:
    """Returns one text for each evidence that audio of a recording is missing."""
    length_s = recording.samples / recording.rate
    promised_s = max(recording.promised / recording.rate, part.promised * length_s)
    losses = list(part.notes)
    if (promised_s - length_s) * recording.rate > 0.5:
        losses.append(f"its header promises {promised_s:.3f} s, but only the first {length_s:.3f} s are there")
    if (ignored_s := part.ignored * length_s) >= MIN_IGNORED_S:
        losses.append(f"{ignored_s:.3f} s worth of bytes follow the {length_s:.3f} s that its header promises; they are not read")
    return losses


@contextlib.contextmanager
def _open_part(path: pathlib.Path, part: Part) -> Iterator[_OpenPart]:
    """Opens a recording of a file for reading block by block."""
    with contextlib.ExitStack() as stack:
        try:
            source = part.open(path)
            if isinstance(source, PartFile):
                stack.enter_context(source)
            file = stack.enter_context(soundfile.SoundFile(source))
        except soundfile.LibsndfileError as error:
            if (wide_wav := _read_wide_wav(path)) is None:
                raise error from None
            rate, samples = wide_wav
            length = _samples_per_block(rate)
            # Full scale is 2^63 for any number of bits, since scipy aligns narrower integers to the upper end.
            starts = range(0, len(samples), length)
            yield _OpenPart(rate, 0, ((samples[start : start + length] / 2.0**63).astype(np.float32) for start in starts))
            return
        length = _samples_per_block(file.samplerate)
        blocks = (file.read(length, dtype="float32", always_2d=True) for _ in itertools.count())
        promised = file.frames if file.frames < 2**62 else 0
        yield _OpenPart(file.samplerate, promised, itertools.takewhile(len, blocks))


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
