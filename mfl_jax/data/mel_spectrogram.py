"""From a waveform to its log-mel spectrogram, whole or in pieces.

Frame t covers the samples [t, t + 1) * hop; its window is centred on sample (t + 0.5) * hop. Samples before the start
and past the end of a recording count as zero. A frame depends on the recording alone, never on where clips are cut.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import threading
from collections.abc import Iterable, Iterator

import librosa
import numpy as np
import scipy.fft
import scipy.signal
import threadpoolctl

from mfl_jax.errors import InputError

FRAMES_AT_ONCE = 64
"""Frames whose spectra are computed together: so many stay in the cache from one step to the next."""


@dataclasses.dataclass(frozen=True)
class MelConfig:
    """Everything that a log-mel spectrogram depends on.

    Attributes:
      sample_rate_hz: rate the recording is brought to first.
      window_samples: length of the periodic Hann window (40 ms by default).
      hop_samples: distance of two frames, and the time that one frame stands for (20 ms by default).
      fft_samples: length of the Fourier transform; the window is padded with zeros to it.
      mel_bins: number of Slaney mel bands, each of unit area.
      low_hz, high_hz: edges of the lowest and of the highest band.
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
        def require(holds, what):
            if not holds:
                raise InputError(f"mel settings: {what} ({self})")

        require(self.sample_rate_hz > 0 and self.hop_samples > 0 and self.mel_bins > 0, "rate, hop and bins are above 0")
        require(0 < self.window_samples <= self.fft_samples, "the window is no longer than the Fourier transform")
        require(self.hop_samples <= self.window_samples, "the hop is no longer than the window")
        require(0 <= self.low_hz < self.high_hz <= self.sample_rate_hz / 2, "0 <= low < high <= half of the rate")
        require(0 < np.float32(self.floor) < np.inf, "the floor is above 0 and finite in float32")

    @property
    def hop_s(self) -> float:
        """Seconds between two frames."""
        return self.hop_samples / self.sample_rate_hz

    def frames(self, samples: int) -> int:
        """Number of frames of a recording of `samples` samples: a last, partly filled one counts."""
        return -(-samples // self.hop_samples)


_limit = threading.Lock(), []


@contextlib.contextmanager
def one_core_per_thread() -> Iterator[None]:
    """While it lasts, matrix products take a single core: for several threads that compute spectrograms, a core each.

    The limit is one of the process. The last of several that overlap in time takes it back.
    """
    lock, held = _limit
    with lock:
        held.append(held[0] if held else _in_another_thread(lambda: threadpoolctl.threadpool_limits(1)))
    try:
        yield
    finally:
        with lock:
            limits = held.pop()
            if not held:
                _in_another_thread(limits.restore_original_limits)


def _in_another_thread(call):
    """Calls in a thread that ends: since threadpoolctl 3.8 one that set a limit keeps all others from it while it lives."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


@functools.lru_cache(maxsize=8)
def mel_filters(config: MelConfig) -> np.ndarray:
    """Returns the filter bank [shape=(mel_bins, fft_samples // 2 + 1)], float32."""
    return librosa.filters.mel(
        sr=config.sample_rate_hz, n_fft=config.fft_samples, n_mels=config.mel_bins, fmin=config.low_hz,
        fmax=config.high_hz, htk=False, norm="slaney", dtype=np.float32,
    )  # fmt: skip


@functools.lru_cache(maxsize=8)
def _window(config: MelConfig) -> np.ndarray:
    return scipy.signal.get_window("hann", config.window_samples, fftbins=True).astype(np.float32)


def _log_mel_of_windows(windows: np.ndarray, config: MelConfig) -> np.ndarray:
    """[shape=(frames, window_samples)] -> [shape=(frames, mel_bins)]."""
    window, filters = _window(config), mel_filters(config)
    log_mel = np.empty((len(windows), config.mel_bins), np.float32)
    for start in range(0, len(windows), FRAMES_AT_ONCE):
        some = slice(start, start + FRAMES_AT_ONCE)
        spectrum = scipy.fft.rfft(windows[some] * window, n=config.fft_samples, axis=1)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        log_mel[some] = np.log(power @ filters.T + np.float32(config.floor))
    return log_mel


def stream_log_mel(blocks: Iterable[np.ndarray], config: MelConfig) -> Iterator[np.ndarray]:
    """Turns consecutive mono blocks of a recording into consecutive pieces of its log-mel spectrogram.

    Memory is bounded by the length of a block, whatever the length of the recording.

    Args:
      blocks: float32 arrays [shape=(n,)] at `config.sample_rate_hz`, of any lengths.
      config: the settings.

    Yields:
      float32 arrays [shape=(frames, mel_bins)]; joined, they hold `config.frames(total samples)` frames.
    """
    # Sample 0 of `pending` is where the window of the next frame begins; the first one begins before the recording.
    pending = np.zeros(config.window_samples // 2 - config.hop_samples // 2, np.float32)
    samples = done = 0
    for block in blocks:
        samples += len(block)
        pending = np.concatenate([pending, block])
        # A frame is ready when its window is filled.
        ready = (len(pending) - config.window_samples) // config.hop_samples + 1
        if ready > 0:
            yield _log_mel_of_windows(_frame(pending, ready, config), config)
            pending = pending[ready * config.hop_samples :]
            done += ready
    rest = config.frames(samples) - done
    if rest > 0:
        tail = np.zeros((rest - 1) * config.hop_samples + config.window_samples, np.float32)
        tail[: len(pending)] = pending[: len(tail)]
        yield _log_mel_of_windows(_frame(tail, rest, config), config)


def _frame(samples: np.ndarray, frames: int, config: MelConfig) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(samples, config.window_samples)
    return windows[: frames * config.hop_samples : config.hop_samples]


def compute_log_mel(waveform: np.ndarray, config: MelConfig | None = None) -> np.ndarray:
    """Returns the log-mel spectrogram of a mono waveform.

    log(M |DFT(w x)|^2 + floor), with M the Slaney filter bank and w the Hann window.

    Args:
      waveform: float32 [shape=(samples,)] at `config.sample_rate_hz`, full scale +-1.
      config: the settings; the paper's by default.

    Returns:
      float32 [shape=(frames, mel_bins)].
    """
    config = config or MelConfig()
    pieces = list(stream_log_mel([np.asarray(waveform, np.float32)], config))
    return np.concatenate(pieces) if pieces else np.zeros((0, config.mel_bins), np.float32)
