"""Which frames of a padded clip are valid."""

import jax
import numpy as np


def frame_mask(valid_frames: jax.Array | np.ndarray, frames: int) -> jax.Array | np.ndarray:
    """Marks the frames before the padding of each clip.

    Args:
      valid_frames: number of valid frames, int [shape=(...,)]; NumPy, or JAX inside or outside a transformed function.
      frames: number of frames of a padded clip, T.

    Returns:
      bool [shape=(..., T)], of the same kind as `valid_frames`.
    """
    return valid_frames[..., None] > np.arange(frames)
