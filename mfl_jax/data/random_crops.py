"""Windows that start within a clip and end within the next one of its recording, drawn anew in every epoch.

Clips are consecutive windows of a recording, and frames do not depend on where clips are cut. So the last frames of a clip and
the first ones of the next clip are the frames of a clip that starts later.
"""

import numpy as np

STREAM = 1
"""Keeps the random numbers apart from those of `batching.shuffle_indices`. Not 0, which would seed the same ones."""


def find_next_clips(recording: np.ndarray, clip_start_s: np.ndarray) -> np.ndarray:
    """Finds the clip that follows each clip in its recording.

    Args:
      recording: path of the recording of each clip, str [shape=(n,)].
      clip_start_s: [s] start of each clip in its recording, float [shape=(n,)].

    Returns:
      Numbers of clips, int [shape=(n,)]; the last clip of a recording has its own number.
    """
    following = np.arange(len(recording))
    order = np.lexsort((clip_start_s, recording))
    is_followed = recording[order[:-1]] == recording[order[1:]]
    following[order[:-1][is_followed]] = order[1:][is_followed]
    return following


def draw_offsets(
    order: np.ndarray, next_clip: np.ndarray, valid_frames: np.ndarray, *, probability: float, seed: int, epoch: int
) -> np.ndarray:
    """Draws how many frames later the clips of an epoch start; the numbers depend only on the arguments.

    Args:
      order: numbers of the clips of the epoch, int [shape=(m,)].
      next_clip: of all clips, from `find_next_clips`, int [shape=(n,)].
      valid_frames: of all clips, int [shape=(n,)]. A clip that another one follows is full.
      probability: of a clip to be moved, 0 to 1.
      seed, epoch: as in `batching.shuffle_indices`.

    Returns:
      [frames] int [shape=(m,)], uniform in 0 ... the last frame of the clip or the end of the next one, whichever comes first, so
      that the window is full; 0 for the last clip of a recording.
    """
    longest = np.where(next_clip == np.arange(len(next_clip)), 0, np.minimum(valid_frames - 1, valid_frames[next_clip]))[order]
    rng = np.random.default_rng([seed, epoch, STREAM])
    is_moved = rng.random(len(order)) < probability
    return np.where(is_moved, rng.integers(0, longest, endpoint=True), 0)


def cut_windows(first: np.ndarray, second: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Cuts windows out of pairs of clips.

    Args:
      first, second: consecutive clips [shape=(n, T, C)].
      offsets: frames of `first` before each window, int [shape=(n,)], less than T.

    Returns:
      The windows [shape=(n, T, C)].
    """
    frames = offsets[:, None] + np.arange(first.shape[1])
    return np.take_along_axis(np.concatenate([first, second], axis=1), frames[..., None], axis=1)
