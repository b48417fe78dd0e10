"""Mean and standard deviation of each mel bin, which normalise the input of the network."""

from collections.abc import Callable

import numpy as np

from mfl_jax.data.batching import split_into_batches
from mfl_jax.data.prepared_dataset import Clips
from mfl_jax.errors import InputError
from mfl_jax.frame_mask import frame_mask

CLIPS_AT_ONCE = 64
"""Clips in memory at a time."""


def compute_feature_statistics(
    clips: Clips, indices: np.ndarray, add: Callable[[np.ndarray], np.ndarray] = np.asarray
) -> dict[str, np.ndarray]:
    """Computes mean and standard deviation of each mel bin over the valid frames of clips.

    Args:
      clips: the split.
      indices: int [shape=(n,)], the clips to count on this host.
      add: sums an array over hosts, which count different clips.

    Returns:
      `mean` and `std`, float32 [shape=(M,)]. A bin that never changes gets the standard deviation 1.

    Raises:
      InputError: there is no valid frame.
    """
    bins = clips.take(indices[:0])["log_mel"].shape[-1]
    # Number of frames, sum of each bin, sum of the squares of each bin.
    sums = np.zeros(1 + 2 * bins)
    for batch_indices in split_into_batches(indices, CLIPS_AT_ONCE):
        batch = clips.take(batch_indices)
        valid = frame_mask(batch["valid_frames"], batch["log_mel"].shape[1])
        frames = batch["log_mel"][valid].astype(np.float64)
        sums += np.concatenate([[len(frames)], frames.sum(0), np.square(frames).sum(0)])
    count, total, squares = np.split(add(sums), [1, 1 + bins])
    if not count:
        raise InputError("feature statistics need at least one clip")
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - np.square(mean), 0))
    return {"mean": mean.astype(np.float32), "std": np.where(std < 1e-5, 1, std).astype(np.float32)}
