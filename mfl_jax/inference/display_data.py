"""Reduces a recording and its prediction to what a picture or a page shows.

Recordings of any length become a bounded number of columns while they are read. A column shows the maximum over its frames, so
that a short event stays visible in a long recording.
"""

import math
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import librosa
import numpy as np

from mfl_jax.data import audio_reader, mel_spectrogram
from mfl_jax.data.annotation import Event
from mfl_jax.data.mel_spectrogram import MelConfig
from mfl_jax.errors import InputError
from mfl_jax.inference.prediction import Prediction

MIN_SCORE = 0.1
"""Classes whose score never reaches this are hidden, unless they were detected or are in the reference."""
RANGE_DB = 80.0
"""Dynamic range of the colours, downwards from the loudest energies."""
DB = 10 / math.log(10)
"""Decibels per unit of the natural logarithm of a power."""
BLOCK_FRAMES = 8192
TICKS_HZ = (50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000)


def reduce_columns(pieces: Iterable[np.ndarray], frames: int, columns: int) -> np.ndarray:
    """Computes the maximum over the frames of each column.

    Frame t belongs to column t * C // frames, where C is the smaller of `columns` and `frames`.

    Args:
      pieces: consecutive arrays [shape=(n, K)] of any lengths. Frames beyond `frames` belong to the last column.
      frames: expected number of frames.
      columns: maximum number of columns.

    Returns:
      float32 [shape=(C, K)]; -inf in columns without frames; K = 0 if there are no pieces.
    """
    columns = min(columns, frames)
    maxima, done = None, 0
    for piece in pieces:
        if maxima is None:
            maxima = np.full((columns, piece.shape[1]), -np.inf, np.float32)
        column = np.minimum(np.arange(done, done + len(piece)) * columns // frames, columns - 1)
        starts = np.flatnonzero(np.diff(column, prepend=-1))
        if piece.size:
            touched = column[starts]
            maxima[touched] = np.maximum(maxima[touched], np.maximum.reduceat(piece, starts, axis=0))
        done += len(piece)
    return np.zeros((columns, 0), np.float32) if maxima is None else maxima


def count_spectrogram_frames(prediction: Prediction, mel: MelConfig) -> int:
    """Computes the number of spectrogram frames of a recording, at least 1."""
    return max(1, mel.frames(round(prediction.duration_s * mel.sample_rate_hz)))


def read_spectrogram(prediction: Prediction, audio_file: str | pathlib.Path, mel: MelConfig, columns: int) -> np.ndarray:
    """Reads a recording and reduces its log-mel spectrogram to at most `columns` columns.

    Returns:
      float32 [shape=(C, mel_bins)], natural logarithm of the power.

    Raises:
      InputError: the file can't be read, or its length differs from that of the prediction.
    """
    frames = count_spectrogram_frames(prediction, mel)
    frames_read = 0

    def count_frames() -> Iterator[np.ndarray]:
        nonlocal frames_read
        for piece in mel_spectrogram.stream_log_mel(audio_reader.stream_mono(audio_file, mel.sample_rate_hz), mel):
            frames_read += len(piece)
            yield piece

    log_mel = reduce_columns(count_frames(), frames, columns)
    if abs(frames_read - frames) > max(2, 0.01 * frames):
        raise InputError(
            f"{audio_file}: lasts {frames_read * mel.hop_s:.2f} s, but the prediction covers {prediction.duration_s:.2f} s; give "
            "the recording that was predicted"
        )
    return np.maximum(log_mel, np.float32(math.log(mel.floor)))


def reduce_scores(prediction: Prediction, columns: int) -> np.ndarray:
    """Reduces the frame scores to at most `columns` columns: float32 [shape=(C, E)], or [shape=(0, E)] without frames."""
    scores = prediction.frame_scores
    if not prediction.events or not len(scores):
        return np.zeros((0, len(prediction.events)), np.float32)
    pieces = (np.asarray(scores[start : start + BLOCK_FRAMES]) for start in range(0, len(scores), BLOCK_FRAMES))
    return reduce_columns(pieces, len(scores), columns)


def average_scenes(prediction: Prediction, columns: int) -> np.ndarray:
    """Averages scene probabilities over the windows that overlap each of `columns` equal parts of the recording.

    Returns:
      float32 [shape=(columns, S)]; S = 0 without scenes.
    """
    if not prediction.scenes:
        return np.zeros((columns, 0), np.float32)
    edges_s = np.linspace(0, prediction.duration_s, columns + 1)
    windows = len(prediction.window_scenes)
    # Windows first ... end - 1 overlap the column: they end after its start and begin before its end.
    first = np.minimum(np.searchsorted(prediction.window_end_s, edges_s[:-1], side="right"), windows - 1)
    end = np.maximum(np.searchsorted(prediction.window_start_s, edges_s[1:], side="left"), first + 1)
    sums = np.concatenate([np.zeros((1, len(prediction.scenes))), np.cumsum(prediction.window_scenes, axis=0, dtype=np.float64)])
    return ((sums[end] - sums[first]) / (end - first)[:, None]).astype(np.float32)


def choose_events(prediction: Prediction, scores: np.ndarray, reference: Sequence[Event] | None) -> list[str]:
    """Chooses the events to show: those that reach `MIN_SCORE`, were detected, or are in the reference.

    Args:
      prediction: the prediction.
      scores: the scores of the prediction, from `reduce_scores`.
      reference: the true events, or None.

    Returns:
      Labels in the order of the model, then those that only the reference has.
    """
    peaks = scores.max(0) if len(scores) else np.zeros(len(prediction.events))
    occurring = list_occurring_events(prediction, reference)
    shown = [label for label, peak in zip(prediction.events, peaks, strict=True) if peak >= MIN_SCORE or label in occurring]
    return shown + [label for label in occurring if label not in prediction.events]


def list_occurring_events(prediction: Prediction, reference: Sequence[Event] | None) -> list[str]:
    """Lists the labels of the detected events and of those in the reference, each once."""
    return list(dict.fromkeys([event.label for event in prediction.detected] + [event.label for event in reference or ()]))


def colour_limits(log_mel: np.ndarray) -> tuple[float, float]:
    """Computes the log-mel energies of the darkest and the brightest colour, ignoring outliers.

    They are at most `RANGE_DB` apart, and at least 1 in units of the logarithm, so that silence is dark.
    """
    low, high = np.percentile(log_mel, (2, 99.9)) if log_mel.size else (0.0, 1.0)
    low = max(low, high - RANGE_DB / DB)
    return float(low), float(max(high, low + 1))


def hz_to_mel_bin(hz: float, mel: MelConfig) -> float:
    """Converts a frequency to a fractional mel bin: i at the centre of bin i, linear in Hz between centres."""
    centres_hz = librosa.mel_frequencies(n_mels=mel.mel_bins + 2, fmin=mel.low_hz, fmax=mel.high_hz, htk=False)
    return float(np.interp(hz, centres_hz, np.arange(-1, mel.mel_bins + 1)))


def choose_frequency_ticks(mel: MelConfig, min_distance: float) -> list[tuple[int, float]]:
    """Chooses round frequencies for the axis of a spectrogram.

    Args:
      mel: settings of the spectrogram.
      min_distance: smallest distance between two ticks, as a share of the axis.

    Returns:
      Each frequency in Hz with its fractional mel bin.
    """
    ticks: list[tuple[int, float]] = []
    previous = -math.inf
    for hz in TICKS_HZ:
        position = hz_to_mel_bin(hz, mel)
        is_inside = mel.low_hz <= hz <= mel.high_hz and -0.5 <= position <= mel.mel_bins - 0.5
        if is_inside and position - previous >= min_distance * mel.mel_bins:
            ticks.append((hz, position))
            previous = position
    return ticks


def format_clock(seconds: float) -> str:
    """Formats a time as m:ss, or as h:mm:ss from an hour on; drops fractions of a second."""
    minutes, rest = divmod(int(seconds + 1e-6), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def format_count(count: int, noun: str) -> str:
    """Formats a count with a noun: "1 event", "2 events"."""
    return f"{count} {noun}{'s' * (count != 1)}"
