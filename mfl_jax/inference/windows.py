"""Overlapping windows of a spectrogram, and the average of their scores.

The network takes clips of a fixed length. A recording of any length is cut into windows of that length, and the scores of
overlapping windows are averaged so that no seam is visible.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np


class Window(NamedTuple):
    """A piece of a spectrogram of the length that the network takes.

    Attributes:
      first: index of its first frame in the recording.
      valid: number of frames before the padding.
      log_mel: the spectrogram, float32 [shape=(clip_frames, M)].
    """

    first: int
    valid: int
    log_mel: np.ndarray


def cut_windows(pieces: Iterable[np.ndarray], clip_frames: int, stride: int) -> Iterator[Window]:
    """Cuts a spectrogram into windows of `clip_frames` frames, one every `stride` frames.

    Windows that reach past the end are padded with zeros, which the network ignores. If `stride` is `clip_frames`, the windows
    are the clips of a data set. If `stride` divides `clip_frames`, those clips are among the windows, so one pass gives the
    scores of both.

    Args:
      pieces: consecutive parts of the spectrogram, [shape=(n, M)]. At most one window and one piece are held in memory.
      clip_frames: length of a window.
      stride: frames from one window to the next.
    """
    first, pending = 0, None
    for piece in pieces:
        pending = piece if pending is None else np.concatenate([pending, piece])
        while len(pending) >= clip_frames:
            yield Window(first, clip_frames, pending[:clip_frames])
            pending, first = pending[stride:], first + stride
    while pending is not None and len(pending):
        already_covered = first > 0 and len(pending) <= clip_frames - stride
        # Windows continue up to the start of the last clip, even if all frames are covered.
        if not already_covered or -first % clip_frames < len(pending):
            yield Window(first, len(pending), np.pad(pending, ((0, clip_frames - len(pending)), (0, 0))))
        pending, first = pending[stride:], first + stride


class OverlapAverager:
    """Averages the frame scores of overlapping windows.

    The score of a frame is the mean over the windows that hold it, weighted by its distance to the nearer border of each window.
    One window thus fades in as the previous one fades out, and scores near a border, where the network sees the least context,
    count least.
    """

    def __init__(self, clip_frames: int, stride: int):
        self._stride = stride
        self._weights = np.ones(clip_frames) if stride == clip_frames else _triangle(clip_frames)
        self._sums: np.ndarray | None = None
        self._weight_sums = np.zeros(clip_frames)

    def add(self, scores: np.ndarray, valid: int) -> np.ndarray:
        """Adds the scores of the next window.

        Args:
          scores: scores of the window, [shape=(clip_frames, E)].
          valid: number of frames before the padding.

        Returns:
          The scores of the next frames, which no later window can change, float32 [shape=(n, E)].
        """
        if self._sums is None:
            self._sums = np.zeros(scores.shape)
        self._sums[:valid] += self._weights[:valid, None] * scores[:valid]
        self._weight_sums[:valid] += self._weights[:valid]
        return self._pop(self._sums, self._stride)

    def finish(self) -> np.ndarray:
        """Returns the scores of the remaining frames after the last window, float32 [shape=(n, E)]."""
        return np.zeros((0, 0), np.float32) if self._sums is None else self._pop(self._sums, len(self._sums))

    def _pop(self, sums: np.ndarray, frames: int) -> np.ndarray:
        covered = self._weight_sums[:frames] > 0
        means = (sums[:frames][covered] / self._weight_sums[:frames][covered, None]).astype(np.float32)
        for array in (sums, self._weight_sums):
            array[:-frames] = array[frames:]
            array[-frames:] = 0
        return means


def _triangle(frames: int) -> np.ndarray:
    return np.minimum(np.arange(1, frames + 1), np.arange(frames, 0, -1)) / frames
