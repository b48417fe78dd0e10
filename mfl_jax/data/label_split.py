"""Divides labelled recordings into those to train on and those to score, group by group, with similar shares of every class."""

from collections.abc import Mapping, Sequence

import numpy as np

from mfl_jax.data import folds
from mfl_jax.data.annotation import Recording
from mfl_jax.errors import InputError

MIN_EVENT_S = 0.01
"""Length that a shorter event counts with, so that a class of zero-length events has a share too."""
MISSING = 0.2
"""Cost of a class that is not scored at all, beside squared differences of shares."""
ROUNDING = 1e-9


def split_recordings(
    recordings: Sequence[Recording], seconds: Mapping[str, float], share: float
) -> tuple[list[Recording], list[Recording]]:
    """Divides recordings in two; all recordings of a group are on one side.

    All groups start on the training side. Then one group at a time changes sides, always the one that brings the shares of all
    recordings, of each scene and of each event (in seconds) closest to `share`, until no change does. No class leaves the
    training side altogether. The result depends only on the arguments.

    Args:
      recordings: each without a group is a group of its own.
      seconds: path of a recording -> its length.
      share: share of the training side, above 0 and below 1.

    Returns:
      The recordings to train on and those to score, in the order given.

    Raises:
      InputError: there are fewer than two groups.
    """
    groups = folds.list_groups(recordings)
    if len(groups) < 2:
        raise InputError(
            f"a split needs at least two groups, but all {len(recordings)} recordings are in one; choose other groups"
        )
    is_scored = _choose_groups(_measure_shares(groups, seconds), 1 - share)
    scored = {recording.path for group, is_in in zip(groups, is_scored, strict=True) if is_in for recording in group}
    sides: tuple[list[Recording], list[Recording]] = ([], [])
    for recording in recordings:
        sides[recording.path in scored].append(recording)
    return sides


def _measure_shares(groups: Sequence[Sequence[Recording]], seconds: Mapping[str, float]) -> np.ndarray:
    """Returns the share of each group in all recordings and in every class, float64 [shape=(groups, 1 + classes)]."""
    scenes = sorted({recording.scene for group in groups for recording in group} - {""})
    events = sorted({event.label for group in groups for recording in group for event in recording.events})
    columns = {("scene", scene): 1 + n for n, scene in enumerate(scenes)}
    columns |= {("event", label): 1 + len(scenes) + n for n, label in enumerate(events)}
    amounts = np.zeros((len(groups), 1 + len(columns)))
    for row, group in enumerate(groups):
        for recording in group:
            amounts[row, 0] += seconds[recording.path]
            if recording.scene:
                amounts[row, columns["scene", recording.scene]] += seconds[recording.path]
            for event in recording.events:
                amounts[row, columns["event", event.label]] += max(event.offset_s - event.onset_s, MIN_EVENT_S)
    return amounts / np.maximum(amounts.sum(0), ROUNDING)


def _choose_groups(shares: np.ndarray, target: float) -> np.ndarray:
    """Chooses the groups to score, bool [shape=(groups,)], at least one and never all.

    Args:
      shares: as `_measure_shares` returns them.
      target: share to score.
    """
    is_scored, scored, cost = np.zeros(len(shares), bool), np.zeros(shares.shape[1]), np.inf
    while True:
        changed = np.where(is_scored[:, None], scored - shares, scored + shares)
        costs = np.sum((changed - target) ** 2 + MISSING * (changed < ROUNDING), 1)
        lacks_class = (changed > 1 - ROUNDING).any(1)
        is_possible = ~lacks_class & (changed[:, 0] > ROUNDING)
        if not is_possible.any() and not is_scored.any():
            is_possible = np.ones(len(shares), bool)  # every group has a class of its own
        costs[~is_possible] = np.inf
        best = int(costs.argmin())
        if not costs[best] < cost - ROUNDING:
            return is_scored
        is_scored[best], scored, cost = not is_scored[best], changed[best], costs[best]
