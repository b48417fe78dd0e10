"""Which clips count for scenes."""

import numpy as np

ROUNDING = 1e-9
"""Frames by which a clip may fall short, because the product of share and frames is rounded: 0.07 * 100 > 7."""


def scene_mask(
    valid_frames: np.ndarray, clip_start_s: np.ndarray, *, clip_frames: int, min_clip_share: float
) -> np.ndarray:  # fmt: skip
    """Marks the clips whose scene is trained and scored.

    A recording is cut into clips of one length, and its remainder is padded. A remainder that is too short to tell the scene
    doesn't count. The first clip of a recording always does: it is full, or the recording has no other.

    Args:
      valid_frames: frames of each clip before the padding, int [shape=(n,)].
      clip_start_s: start of each clip in its recording, float [shape=(n,)].
      clip_frames: frames of a padded clip.
      min_clip_share: least share of the frames that must be valid, 0 to 1; with 0 all clips count.

    Returns:
      bool [shape=(n,)].
    """
    return (valid_frames >= min_clip_share * clip_frames - ROUNDING) | (clip_start_s == 0)
