"""Whether probabilities of events mean what they say: the share of active frames by predicted probability."""

from collections.abc import Mapping, Sequence
from typing import Any

FEWEST_CELLS = 1000
"""Intervals with fewer pairs of a frame and an event are not drawn. Frames of one event are alike, so fewer say little."""

Intervals = Sequence[Mapping[str, Any]]
"""`event_probabilities.reliability` of results.json: `mean_score`, `share_active` and `cells` of each interval."""


def pool_intervals(tables: Sequence[Intervals | None]) -> list[dict[str, Any]] | None:
    """Pools the cells of runs; None if one of them has no such table, as if scored by an earlier version or without events."""
    present = [table for table in tables if table is not None]
    if len(present) < len(tables):
        return None
    pooled = []
    for intervals in zip(*present, strict=True):
        filled = [interval for interval in intervals if interval["cells"]]
        cells = sum(interval["cells"] for interval in filled)
        means = {
            name: sum(interval[name] * interval["cells"] for interval in filled) / cells if cells else None
            for name in ("mean_score", "share_active")
        }
        pooled.append({**means, "cells": cells})
    return pooled


def select_points(intervals: Intervals | None) -> list[tuple[float, float]]:
    """Returns the mean probability and the share of active frames of each interval that has enough cells to draw."""
    return [
        (interval["mean_score"], interval["share_active"]) for interval in intervals or () if interval["cells"] >= FEWEST_CELLS
    ]
