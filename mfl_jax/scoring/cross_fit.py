"""Scores rules on recordings they were not chosen on: each part of the recordings, with the rules chosen on the other parts."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mfl_jax.data import folds
from mfl_jax.data.annotation import Recording
from mfl_jax.inference.postprocessing import Rule


def divide_recordings(recordings: Sequence[Recording], frames: Mapping[str, int]) -> tuple[np.ndarray | None, str]:
    """Divides recordings into four parts as `folds.balance_groups` does, whether or not they have groups.

    Args:
      recordings: in any order.
      frames: path of a recording -> its number of frames.

    Returns:
      The part of each recording, int [shape=(R,)], and an empty string; or None, and why there are no four parts.
    """
    if (count := len(folds.list_groups(recordings))) < folds.FOLDS:
        kind = "groups of recordings" if any(recording.group for recording in recordings) else "recordings"
        return None, f"{folds.FOLDS} parts need {folds.FOLDS} {kind}, but {count} were held out"
    parts = folds.balance_groups(recordings, frames)
    return np.array([parts[recording.path] for recording in recordings]), ""


def pool_counts(parts: np.ndarray, choose: Callable[[np.ndarray], Rule], count: Callable[[Rule], np.ndarray]) -> np.ndarray:
    """Adds up the counts of all recordings, those of each part with the rule that is chosen without it.

    Args:
      parts: part of each recording, int [shape=(R,)].
      choose: returns the rule chosen on a selection of recordings, bool [shape=(R,)].
      count: returns the counts of a rule in each recording, int [shape=(R, C)].

    Returns:
      The sums over recordings, int [shape=(C,)].
    """
    return np.sum([count(choose(parts != part))[parts == part].sum(0) for part in np.unique(parts)], axis=0)
