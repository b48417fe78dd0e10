"""Recordings of any length through a network that takes clips: windows that overlap, and their scores joined without seams."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np


class Window(NamedTuple):
    """A piece of a spectrogram as the network takes it.

    `first` is its first frame in the recording, `log_mel` [shape=(clip_frames, M)], of which `valid` frames hold something.
    """

    first: int
    valid: int
    log_mel: np.ndarray


def cut(pieces: Iterable[np.ndarray], clip_frames: int, stride: int) -> Iterator[Window]:
    """Cuts a spectrogram into windows of `clip_frames` frames, one every `stride` frames, until all frames are seen.

    Windows that reach past the end are padded with zeros, which the network does not see. With a stride of `clip_frames` the
    windows are the clips of a data set. With a part of it, those clips are among them, so that scores of both come from one pass.

    Args:
      pieces: consecutive, [shape=(n, M)]. At most a window and a piece are held.
    """
    first, pending = 0, None
    for piece in pieces:
        pending = piece if pending is None else np.concatenate([pending, piece])
        while len(pending) >= clip_frames:
            yield Window(first, clip_frames, pending[:clip_frames])
            pending, first = pending[stride:], first + stride
    while pending is not None and len(pending):
        seen_before = first > 0 and len(pending) <= clip_frames - stride
        if not seen_before or -first % clip_frames < len(pending):  # a clip is to come: none is left out up to there
            yield Window(first, len(pending), np.pad(pending, ((0, clip_frames - len(pending)), (0, 0))))
        pending, first = pending[stride:], first + stride


class Joiner:
    """Joins the frame scores of the windows of a recording.

    Where windows overlap, a frame has the mean of their scores, weighted by its distance to the border of each window: a window
    fades in as the one before it fades out, and what the network knows least, what lies at a border, counts least.
    """

    def __init__(self, clip_frames: int, stride: int):
        self._stride = stride
        self._weights = np.ones(clip_frames) if stride == clip_frames else _triangle(clip_frames)
        self._total = self._weight = None

    def add(self, scores: np.ndarray, valid: int) -> np.ndarray:
        """Takes the scores of the next window [shape=(clip_frames, E)].

        Returns:
          The scores of the next frames, which no later window changes, float32 [shape=(n, E)].
        """
        if self._total is None:
            self._total, self._weight = np.zeros(scores.shape), np.zeros(len(scores))
        self._total[:valid] += self._weights[:valid, None] * scores[:valid]
        self._weight[:valid] += self._weights[:valid]
        return self._take(self._stride)

    def end(self) -> np.ndarray:
        """Returns what is left after the last window [shape=(n, E)]."""
        return np.zeros((0, 0), np.float32) if self._total is None else self._take(len(self._total))

    def _take(self, frames):
        heard = self._weight[:frames] > 0
        done = (self._total[:frames][heard] / self._weight[:frames][heard, None]).astype(np.float32)
        for array in (self._total, self._weight):
            array[:-frames] = array[frames:]
            array[-frames:] = 0
        return done


def _triangle(frames):
    return np.minimum(np.arange(1, frames + 1), np.arange(frames, 0, -1)) / frames
