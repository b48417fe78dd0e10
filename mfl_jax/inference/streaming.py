"""Recordings of any length through a trained network, in bounded memory."""

import contextlib
import dataclasses
import os
import pathlib
import queue
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import jax
import numpy as np

from mfl_jax.data import audio_reader, mel_spectrogram
from mfl_jax.errors import InputError
from mfl_jax.inference import postprocessing, windows
from mfl_jax.inference.prediction import Prediction
from mfl_jax.inference.trained_model import TrainedModel

OVERLAP = 0.5
"""Share of a window that it has in common with the next one."""
HELD_BYTES = 1 << 20
"""Of scores of a recording that stay in memory; what is more goes into a temporary file."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A recording to predict: its name in all that is written, and its file."""

    name: str
    file: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Refused:
    """A recording that could not be read, and why, in one line."""

    source: Source
    reason: str


def window_stride(clip_frames: int, overlap: float) -> int:
    """Frames from one window to the next.

    Raises:
      InputError: the overlap is no share of a window.
    """
    if not 0 <= overlap < 1:
        raise InputError(f"an overlap of {overlap:g} is none: it is a share of a window, from 0 to less than 1")
    return max(1, round(clip_frames * (1 - overlap)))


def batch_size() -> int:
    """Windows that go through the network together."""
    return 16 if jax.default_backend() == "cpu" else 64


def predict_recordings(
    model: TrainedModel,
    sources: Sequence[Source],
    *,
    overlap: float = OVERLAP,
    rules: Mapping[str, postprocessing.Rule],
    keep_clips: bool = False,
    heard_s: Callable[[float], None] = lambda seconds: None,
) -> Iterator[Prediction | Refused]:
    """Predicts recordings of any length, in bounded memory.

    Recordings are decoded by threads, and their windows go through the network in batches, those of several recordings together.

    Args:
      model: of `mfl_jax.load`. sources: the recordings. overlap: see `OVERLAP`.
      rules: of post-processing, an event each. keep_clips: whether to keep `Prediction.clip_scores`.
      heard_s: called with seconds of audio as they are done.

    Yields:
      A `Prediction` or a `Refused` a recording, in no given order.
    """
    stride, size = window_stride(model.clip_frames, overlap), batch_size()
    heard: dict[int, _RecordingAccumulator] = {}
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: [left.close() for left in heard.values()])
        items = stack.enter_context(_decoded(model, sources, stride, 2 * size))
        for batch in _batched(items, size):
            scene, event = _probabilities(model, [item.window for item in batch if item.window], size)
            row = 0
            for item in batch:
                number = item.number
                if item.window:
                    if number not in heard:
                        heard[number] = _RecordingAccumulator(model, stride, keep_clips)
                    of_scene = scene[row] if scene is not None else np.zeros(0, np.float32)
                    of_events = event[row] if event is not None else np.zeros((model.clip_frames, 0), np.float32)
                    heard_s(heard[number].add(item.window, of_scene, of_events))
                    row += 1
                elif item.reason:
                    if number in heard:
                        heard.pop(number).close()
                    yield Refused(sources[number], item.reason)
                else:
                    yield heard.pop(number).prediction(sources[number].name, item.duration_s, rules, overlap)


@dataclasses.dataclass(frozen=True)
class _Item:
    """What a decoding thread hands on: a window of a recording; or its end, with its length; or why it can't be read."""

    number: int
    window: windows.Window | None = None
    duration_s: float = 0.0
    reason: str = ""


@contextlib.contextmanager
def _decoded(model, sources, stride, waiting) -> Iterator[Iterator[_Item]]:
    """Yields the items of all recordings; a thread a core decodes, and no more than `waiting` items wait to be used."""
    items, numbers, stop = queue.Queue(waiting), iter(range(len(sources))), threading.Event()

    def hand_on(item):
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                items.put(item, timeout=0.1)
                return
        raise _Stopped

    def decode(number):
        samples = 0

        def counted(blocks):
            nonlocal samples
            for block in blocks:
                samples += len(block)
                yield block

        rate = model.mel.sample_rate_hz
        try:
            pieces = mel_spectrogram.stream_log_mel(counted(audio_reader.stream_mono(sources[number].file, rate)), model.mel)
            for window in windows.cut(pieces, model.clip_frames, stride):
                hand_on(_Item(number, window))
        except InputError as error:
            hand_on(_Item(number, reason=str(error)))
        except (OSError, ValueError, MemoryError) as error:  # of this recording: the others are none the worse
            why = str(error).strip().splitlines() or [type(error).__name__]
            hand_on(_Item(number, reason=f"{sources[number].file}: not readable ({why[-1]})"))
        else:
            hand_on(_Item(number, duration_s=samples / rate))

    def work():
        with contextlib.suppress(_Stopped):
            try:
                for number in numbers:
                    decode(number)
            except _Stopped:
                raise
            except BaseException as error:
                hand_on(error)
            else:
                hand_on(None)

    def taken():
        left = len(threads)
        while left:
            item = items.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                left -= 1
            else:
                yield item

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(len(sources), len(os.sched_getaffinity(0))))]
    with mel_spectrogram.one_core_per_thread():
        for thread in threads:
            thread.start()
        try:
            yield taken()
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def _batched(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """Items in their order, with `size` windows among those of a list but for the last one."""
    batch, found = [], 0
    for item in items:
        batch.append(item)
        found += item.window is not None
        if found == size:
            yield batch
            batch, found = [], 0
    if batch:
        yield batch


def _probabilities(model, several: Sequence[windows.Window], size: int):
    """Scores of some windows; a batch that is not full is filled up, so that there is one program."""
    if not several:
        return None, None
    surplus = size - len(several)
    batch = {
        "log_mel": np.pad(np.stack([window.log_mel for window in several]), ((0, surplus), (0, 0), (0, 0))),
        "valid_frames": np.pad(np.int32([window.valid for window in several]), (0, surplus)),
        "clip_mask": np.arange(size) < len(several),
    }
    return jax.device_get(model.probabilities(batch))


class _Stopped(Exception):
    """Nobody waits for what a decoding thread is about to hand on."""


class _RecordingAccumulator:
    """What was heard of a recording so far."""

    def __init__(self, model: TrainedModel, stride: int, keep_clips: bool):
        self._model, self._stride = model, stride
        self._joiner = windows.Joiner(model.clip_frames, stride)
        self._scores = _SpillBuffer(len(model.events))
        self._clips = _SpillBuffer(len(model.events)) if keep_clips and model.clip_frames % stride == 0 else None
        self._windows: list[tuple[int, int]] = []
        self._scenes: list[np.ndarray] = []

    def add(self, window: windows.Window, scene: np.ndarray, events: np.ndarray) -> float:
        """Takes the scores of a window; returns the seconds in it that none was heard of before."""
        self._windows.append((window.first, window.first + window.valid))
        self._scenes.append(scene)
        self._scores.write(self._joiner.add(events, window.valid))
        if self._clips and window.first % self._model.clip_frames == 0:
            self._clips.write(events[: window.valid])
        before = self._windows[-2][1] if len(self._windows) > 1 else 0
        return (window.first + window.valid - before) * self._model.mel.hop_s

    def close(self) -> None:
        for spool in (self._scores, self._clips):
            if spool:
                spool.close()

    def prediction(self, name: str, duration_s: float, rules: Mapping, overlap: float) -> Prediction:
        self._scores.write(self._joiner.end())
        scores, hop_s = self._scores.read(), self._model.mel.hop_s
        bounds, scenes = np.array(self._windows), np.stack(self._scenes)
        weights = bounds[:, 1] - bounds[:, 0]
        return Prediction(
            recording=name,
            duration_s=duration_s,
            hop_s=hop_s,
            scenes=self._model.scenes,
            events=self._model.events,
            scene=np.average(scenes, axis=0, weights=weights).astype(np.float32),
            window_start_s=bounds[:, 0] * hop_s,
            window_end_s=np.minimum(bounds[:, 1] * hop_s, duration_s),
            window_scenes=scenes,
            frame_scores=scores,
            clip_scores=self._clips.read() if self._clips else None,
            detected=postprocessing.detect(scores, self._model.events, rules, hop_s=hop_s, duration_s=duration_s),
            clip_s=self._model.clip_frames * hop_s,
            overlap=overlap,
        )


class _SpillBuffer:
    """Rows of scores until they are read; those of long recordings, which may not fit into memory, in a file without a name."""

    def __init__(self, columns: int):
        self._held, self._rows, self._file = [np.zeros((0, columns), np.float32)], 0, None

    def write(self, rows: np.ndarray) -> None:
        self._held.append(np.ascontiguousarray(rows, np.float32).reshape(len(rows), self._held[0].shape[1]))
        self._rows += len(rows)
        if sum(rows.nbytes for rows in self._held) > HELD_BYTES:
            self._file = self._file or tempfile.TemporaryFile(prefix="mfl_jax_")  # noqa: SIM115 (closed by `read`, `close`)
            self._spill()

    def _spill(self):
        for rows in self._held[1:]:
            self._file.write(rows)
        del self._held[1:]

    def read(self) -> np.ndarray:
        if self._file is None:
            return np.concatenate(self._held)
        with self._file as file:
            self._spill()
            file.flush()
            return np.memmap(file, np.float32, "r", shape=(self._rows, self._held[0].shape[1]))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
