"""Decodes recordings into spectrogram windows, in one thread per core."""

import contextlib
import dataclasses
import os
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from mfl_jax.data import mel_spectrogram
from mfl_jax.data.mel_spectrogram import MelConfig
from mfl_jax.errors import InputError
from mfl_jax.inference import windows
from mfl_jax.inference.audio_source import SoundSource


@dataclasses.dataclass(frozen=True)
class DecodedWindow:
    """The next window of recording `index`."""

    index: int
    window: windows.Window


@dataclasses.dataclass(frozen=True)
class DecodedEnd:
    """The end of recording `index`, whose windows all came before; `warning` is empty if nothing is suspicious."""

    index: int
    duration_s: float
    warning: str


@dataclasses.dataclass(frozen=True)
class DecodeFailure:
    """Recording `index` can't be read; some of its windows may have come before."""

    index: int
    reason: str


Decoded = DecodedWindow | DecodedEnd | DecodeFailure


@contextlib.contextmanager
def decode_recordings(
    sources: Sequence[SoundSource], mel: MelConfig, *, clip_frames: int, stride: int, max_waiting: int
) -> Iterator[Iterator[Decoded]]:
    """Decodes recordings in the background; the threads end when the context is left.

    Args:
      sources: the recordings.
      mel: settings of the spectrogram.
      clip_frames: length of a window.
      stride: frames from one window to the next.
      max_waiting: decoded windows that may wait to be used.

    Yields:
      An iterator over the windows of all recordings, each recording's in order and followed by its end or failure. Those of
      several recordings are interleaved.
    """
    decoder = _Decoder(sources, mel, clip_frames, stride, max_waiting)
    with mel_spectrogram.one_core_per_thread():
        decoder.start()
        try:
            yield decoder.results()
        finally:
            decoder.stop()


class _Stopped(Exception):
    """Raised in a decoding thread when its results are no longer needed."""


class _Decoder:
    """Threads that take recordings from a shared iterator and put their windows into a bounded queue."""

    def __init__(self, sources: Sequence[SoundSource], mel: MelConfig, clip_frames: int, stride: int, max_waiting: int):
        self._sources, self._mel, self._clip_frames, self._stride = sources, mel, clip_frames, stride
        self._indices = iter(range(len(sources)))
        # Besides results: None when a thread is done, and exceptions that must end the whole prediction.
        self._queue: queue.Queue[Decoded | BaseException | None] = queue.Queue(max_waiting)
        self._stop = threading.Event()
        count = min(len(sources), len(os.sched_getaffinity(0)))
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(count)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def results(self) -> Iterator[Decoded]:
        running = len(self._threads)
        while running:
            item = self._queue.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                running -= 1
            else:
                yield item

    def _work(self) -> None:
        with contextlib.suppress(_Stopped):
            try:
                for index in self._indices:
                    self._decode(index)
            except _Stopped:
                raise
            except BaseException as error:
                self._put(error)
            else:
                self._put(None)

    def _put(self, item: Decoded | BaseException | None) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=0.1)
                return
        raise _Stopped

    def _decode(self, index: int) -> None:
        source, rate = self._sources[index], self._mel.sample_rate_hz
        samples = 0
        warnings: list[str] = []

        def count_samples(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
            nonlocal samples
            for block in blocks:
                samples += len(block)
                yield block

        try:
            blocks = source.stream_mono(rate, warnings.append)
            pieces = mel_spectrogram.stream_log_mel(count_samples(blocks), self._mel)
            for window in windows.cut_windows(pieces, self._clip_frames, self._stride):
                self._put(DecodedWindow(index, window))
        except InputError as error:
            self._put(DecodeFailure(index, str(error)))
        except (OSError, ValueError, MemoryError) as error:  # affects this recording only
            # The text of a system error would name the file again.
            lines = str(getattr(error, "strerror", None) or error).strip().splitlines() or [type(error).__name__]
            self._put(DecodeFailure(index, f"{source.place}: not readable ({lines[-1]})"))
        else:
            self._put(DecodedEnd(index, samples / rate, "; ".join(warnings)))
