"""Mean and standard deviation of each mel bin, which normalise what the network sees."""

from collections.abc import Callable

import numpy as np

from mfl_jax.data.prepared_dataset import Clips, split_numbers
from mfl_jax.errors import InputError
from mfl_jax.frame_mask import frame_mask


def feature_statistics(
    clips: Clips, numbers: np.ndarray, add: Callable[[np.ndarray], np.ndarray] = np.asarray
) -> dict[str, np.ndarray]:
    """Mean and standard deviation of each mel bin over the valid frames of some clips.

    Args:
      clips: the split. numbers: those of its clips that are counted here.
      add: adds an array to its like on other hosts, which count other clips.

    Returns:
      `mean` and `std`, float32 [shape=(M,)]. A bin that never changes gets the deviation 1.
    """
    bins = clips.take(numbers[:0])["log_mel"].shape[-1]
    count, total, squares = 0, np.zeros(bins), np.zeros(bins)
    for part in split_numbers(numbers, 64):
        taken = clips.take(part)
        valid = frame_mask(taken["valid_frames"], taken["log_mel"].shape[1])
        frames = taken["log_mel"][valid].astype(np.float64)
        count, total, squares = count + len(frames), total + frames.sum(0), squares + np.square(frames).sum(0)
    count, total, squares = np.split(add(np.concatenate([[count], total, squares])), [1, 1 + bins])
    if not count:
        raise InputError("there is no clip to take feature statistics of")
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - np.square(mean), 0))
    return {"mean": mean.astype(np.float32), "std": np.where(std < 1e-5, 1, std).astype(np.float32)}
