"""Computes log-mel spectrograms of waveforms, at once or block by block.

Frame t covers the samples [t, t + 1) * hop; its window is centred on sample (t + 0.5) * hop. Samples before the start
and past the end of a recording count as zero. A frame depends only on the recording, not on where clips are cut.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import scipy.fft

from mfl_jax.errors import InputError

R = TypeVar("R")

FRAMES_AT_ONCE = 64
"""Frames whose spectra are computed together; their intermediate arrays fit into the processor cache."""


@dataclasses.dataclass(frozen=True)
class MelConfig:
    """Settings of a log-mel spectrogram.

    Attributes:
      sample_rate_hz: rate to which recordings are resampled.
      window_samples: length of the periodic Hann window (default: 40 ms).
      hop_samples: distance between frames, and the time that one frame covers (default: 20 ms).
      fft_samples: length of the Fourier transform; the window is zero-padded to it.
      mel_bins: number of Slaney mel bands, each of unit area.
      low_hz, high_hz: lower edge of the lowest band and upper edge of the highest one.
      floor: added to the mel power before the natural logarithm, so that silence stays finite.
    """

    sample_rate_hz: int = 44_100
    window_samples: int = 1764
    hop_samples: int = 882
    fft_samples: int = 2048
    mel_bins: int = 64
    low_hz: float = 0.0
    high_hz: float = 22_050.0
    floor: float = 1e-10

    def __post_init__(self):
        def require(condition: bool, rule: str) -> None:
            if not condition:
                raise InputError(f"mel settings: {rule} ({self})")

        positive = self.sample_rate_hz > 0 and self.hop_samples > 0 and self.mel_bins > 0
        require(positive, "sample_rate_hz, hop_samples and mel_bins must be > 0")
        require(0 < self.window_samples <= self.fft_samples, "window_samples must be > 0 and <= fft_samples")
        require(self.hop_samples <= self.window_samples, "hop_samples must be <= window_samples")
        ordered = 0 <= self.low_hz < self.high_hz <= self.sample_rate_hz / 2
        require(ordered, "0 <= low_hz < high_hz <= sample_rate_hz / 2 must hold")
        require(bool(0 < np.float32(self.floor) < np.inf), "floor must be > 0 and finite in float32")

    @property
    def hop_s(self) -> float:
        """Seconds between frames."""
        return self.hop_samples / self.sample_rate_hz

    def frames(self, samples: int) -> int:
        """Returns the number of frames of `samples` samples, including a partly filled last one."""
        return -(-samples // self.hop_samples)


_blas_limits: list[Any] = []  # the active limit, once per context that uses it
_blas_limits_lock = threading.Lock()


@contextlib.contextmanager
def one_core_per_thread() -> Iterator[None]:
    """Limits matrix products to one core, so that several threads can compute spectrograms on one core each.

    The limit applies to the process. If several contexts overlap in time, the last one to end lifts it.
    """
    import threadpoolctl  # imported here: training needs no spectrograms, only `MelConfig`

    with _blas_limits_lock:
        _blas_limits.append(_blas_limits[0] if _blas_limits else _run_in_new_thread(lambda: threadpoolctl.threadpool_limits(1)))
    try:
        yield
    finally:
        with _blas_limits_lock:
            limit = _blas_limits.pop()
            if not _blas_limits:
                _run_in_new_thread(limit.restore_original_limits)


def _run_in_new_thread(function: Callable[[], R]) -> R:
    """Calls a function in a new thread, because since threadpoolctl 3.8 a living thread with a limit blocks other threads."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


@functools.lru_cache(maxsize=8)
def mel_filters(config: MelConfig) -> np.ndarray:
    """Returns the mel filter bank, float32 [shape=(mel_bins, fft_samples // 2 + 1)]."""
    import librosa  # imported here: training needs no spectrograms, only `MelConfig`

    return librosa.filters.mel(
        sr=config.sample_rate_hz, n_fft=config.fft_samples, n_mels=config.mel_bins, fmin=config.low_hz,
        fmax=config.high_hz, htk=False, norm="slaney", dtype=np.float32,
    )  # fmt: skip


@functools.lru_cache(maxsize=8)
def _hann_window(config: MelConfig) -> np.ndarray:
    import scipy.signal  # imported here, because it takes half a second

    return scipy.signal.get_window("hann", config.window_samples, fftbins=True).astype(np.float32)


def _compute_frames(windows: np.ndarray, config: MelConfig) -> np.ndarray:
    """Computes log-mel frames [shape=(frames, mel_bins)] of sample windows [shape=(frames, window_samples)]."""
    hann, filters = _hann_window(config), mel_filters(config)
    log_mel = np.empty((len(windows), config.mel_bins), np.float32)
    for start in range(0, len(windows), FRAMES_AT_ONCE):
        part = slice(start, start + FRAMES_AT_ONCE)
        spectrum = scipy.fft.rfft(windows[part] * hann, n=config.fft_samples, axis=1)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        log_mel[part] = np.log(power @ filters.T + np.float32(config.floor))
    return log_mel


def stream_log_mel(blocks: Iterable[np.ndarray], config: MelConfig) -> Iterator[np.ndarray]:
    """Computes the log-mel spectrogram of a recording block by block.

    Memory depends on the length of a block, not on the length of the recording.

    Args:
      blocks: consecutive mono blocks, float32 [shape=(n,)] of any lengths, at `config.sample_rate_hz`.
      config: settings of the spectrogram.

    Yields:
      Consecutive pieces of the spectrogram, float32 [shape=(frames, mel_bins)]; `config.frames(total samples)` frames in all.
    """
    # `pending` starts at the window of the next frame; the first window starts before the recording.
    pending = np.zeros(config.window_samples // 2 - config.hop_samples // 2, np.float32)
    samples = done = 0
    for block in blocks:
        samples += len(block)
        pending = np.concatenate([pending, block])
        # A frame is ready when its window is full.
        ready = (len(pending) - config.window_samples) // config.hop_samples + 1
        if ready > 0:
            yield _compute_frames(_cut_windows(pending, ready, config), config)
            pending = pending[ready * config.hop_samples :]
            done += ready
    rest = config.frames(samples) - done
    if rest > 0:
        tail = np.zeros((rest - 1) * config.hop_samples + config.window_samples, np.float32)
        tail[: len(pending)] = pending[: len(tail)]
        yield _compute_frames(_cut_windows(tail, rest, config), config)


def _cut_windows(samples: np.ndarray, frames: int, config: MelConfig) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(samples, config.window_samples)
    return windows[: frames * config.hop_samples : config.hop_samples]


def compute_log_mel(waveform: np.ndarray, config: MelConfig | None = None) -> np.ndarray:
    """Computes the log-mel spectrogram of a mono waveform.

    log(M |DFT(w x)|^2 + floor), with M the Slaney filter bank and w the Hann window.

    Args:
      waveform: float32 [shape=(samples,)] at `config.sample_rate_hz`, full scale +-1.
      config: settings of the spectrogram; default: the paper's.

    Returns:
      float32 [shape=(frames, mel_bins)].

    Raises:
      InputError: a sample is not finite, or so large that the power of its frame is not finite in float32.
    """
    config = config or MelConfig()
    with np.errstate(over="ignore", invalid="ignore"):
        pieces = list(stream_log_mel([np.asarray(waveform, np.float32)], config))
    log_mel = np.concatenate(pieces) if pieces else np.zeros((0, config.mel_bins), np.float32)
    if not (valid := np.isfinite(log_mel).all(axis=1)).all():
        raise InputError(f"waveform: not finite or far beyond full scale (1) near {np.argmin(valid) * config.hop_s:.2f} s")
    return log_mel
