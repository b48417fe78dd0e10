"""Predicts recordings of any length in bounded memory."""

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence

import jax
import numpy as np

from mfl_jax.errors import InputError, warn
from mfl_jax.inference import postprocessing, windows
from mfl_jax.inference.audio_source import SoundSource
from mfl_jax.inference.clip_model import ClipModel
from mfl_jax.inference.decoding import Decoded, DecodedWindow, DecodeFailure, decode_recordings
from mfl_jax.inference.prediction import Prediction, UnreadableRecording
from mfl_jax.inference.recording_accumulator import RecordingAccumulator

Scores = tuple[jax.Array | None, jax.Array | None]
"""Scene probabilities [shape=(B, S)] and event probabilities [shape=(B, T, E)] of windows, on the device."""
DEFAULT_OVERLAP = 0.5
"""Share of a window that overlaps the next one."""


def window_stride(clip_frames: int, overlap: float) -> int:
    """Computes the number of frames from one window to the next.

    Raises:
      InputError: `overlap` is not in [0, 1).
    """
    if not 0 <= overlap < 1:
        raise InputError(f"overlap must be at least 0 and below 1, not {overlap:g}")
    return max(1, round(clip_frames * (1 - overlap)))


def batch_size() -> int:
    """Returns how many windows go through the network together."""
    return 16 if jax.default_backend() == "cpu" else 64


def predict_recordings(
    model: ClipModel,
    sources: Sequence[SoundSource],
    *,
    overlap: float = DEFAULT_OVERLAP,
    rules: Mapping[str, postprocessing.Rule],
    keep_clips: bool = False,
    on_progress: Callable[[float], None] = lambda seconds: None,
) -> Generator[Prediction | UnreadableRecording, None, None]:
    """Predicts recordings of any length, in bounded memory.

    Threads decode the recordings. A batch of the network may hold windows of several recordings. A warning is printed for each
    recording of which audio is missing at the end or whose signal is suspicious.

    Args:
      model: the model, from `mfl_jax.load`.
      sources: the recordings.
      overlap: share of a window that overlaps the next one, in [0, 1).
      rules: post-processing rule of each event.
      keep_clips: whether to fill `Prediction.clip_scores`.
      on_progress: called with the seconds of audio predicted since the last call.

    Yields:
      One result per recording, in no particular order.

    Raises:
      InputError: `overlap` is not in [0, 1), or a rule is for an event that the model does not know.
    """
    stride, size = window_stride(model.clip_frames, overlap), batch_size()
    postprocessing.check_rules(rules, model.events)  # before hours of audio are decoded
    accumulators: dict[int, RecordingAccumulator] = {}
    with contextlib.ExitStack() as stack:
        stack.callback(_close_all, accumulators)
        decoded = stack.enter_context(
            decode_recordings(sources, model.mel, clip_frames=model.clip_frames, stride=stride, max_waiting=2 * size)
        )
        for item, scene, events in _score_windows(model, decoded, size):
            index = item.index
            if isinstance(item, DecodedWindow):
                if index not in accumulators:
                    accumulators[index] = RecordingAccumulator(model, stride, keep_clips)
                on_progress(accumulators[index].add(item.window, scene, events))
            elif isinstance(item, DecodeFailure):
                if index in accumulators:
                    accumulators.pop(index).close()
                yield UnreadableRecording(sources[index], item.reason)
            else:
                name = sources[index].name
                if item.warning:
                    warn(f"{name}: {item.warning}")
                prediction = accumulators.pop(index).finish(name, item.duration_s, rules, overlap)
                yield dataclasses.replace(prediction, warning=item.warning)


def _close_all(accumulators: Mapping[int, RecordingAccumulator]) -> None:
    for accumulator in accumulators.values():
        accumulator.close()


def _score_windows(model: ClipModel, decoded: Iterable[Decoded], size: int) -> Iterator[tuple[Decoded, np.ndarray, np.ndarray]]:
    """Yields each item with scene scores [shape=(S,)] and event scores [shape=(clip_frames, E)], empty unless it is a window."""
    no_scene, no_events = np.zeros(0, np.float32), np.zeros((model.clip_frames, 0), np.float32)
    for batch, scores in _run_ahead(model, _batch_windows(decoded, size), size):
        scenes, events = jax.device_get(scores)
        row = 0
        for item in batch:
            if isinstance(item, DecodedWindow):
                yield item, no_scene if scenes is None else scenes[row], no_events if events is None else events[row]
                row += 1
            else:
                yield item, no_scene, no_events


def _batch_windows(items: Iterable[Decoded], size: int) -> Iterator[list[Decoded]]:
    """Groups items, in order, so that every group but the last holds `size` windows."""
    batch: list[Decoded] = []
    window_count = 0
    for item in items:
        batch.append(item)
        window_count += isinstance(item, DecodedWindow)
        if window_count == size:
            yield batch
            batch, window_count = [], 0
    if batch:
        yield batch


def _run_ahead(model: ClipModel, batches: Iterable[list[Decoded]], size: int) -> Iterator[tuple[list[Decoded], Scores]]:
    """Yields each batch and its scores once the next batch has started, so that the device computes while results are written."""
    waiting: tuple[list[Decoded], Scores] | None = None
    for batch in batches:
        started = batch, _start_network(model, [item.window for item in batch if isinstance(item, DecodedWindow)], size)
        if waiting is not None:
            yield waiting
        waiting = started
    if waiting is not None:
        yield waiting


def _start_network(model: ClipModel, batch_windows: Sequence[windows.Window], size: int) -> Scores:
    """Starts to compute probabilities of windows; pads to `size` windows, so that one compiled program serves all."""
    if not batch_windows:
        return None, None
    padding = size - len(batch_windows)
    batch = {
        "log_mel": np.pad(np.stack([window.log_mel for window in batch_windows]), ((0, padding), (0, 0), (0, 0))),
        "valid_frames": np.pad(np.array([window.valid for window in batch_windows], np.int32), (0, padding)),
        "clip_mask": np.arange(size) < len(batch_windows),
    }
    return model.probabilities(batch)
