"""Confidence intervals over recordings: what the scores would be on other recordings, by the bootstrap.

Recordings are drawn with replacement, as many as there are; for each task, those that are annotated for it. Each seed is scored
on the counts of the drawn recordings, and the scores are averaged over seeds, so the intervals are those of the means in the
tables. Every system and seed gets the same draws, so differences between systems are paired. Classes that no drawn recording has
count as in `metrics`: their F is 0.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mfl_jax import metrics
from mfl_jax.reporting.tables import format_system
from mfl_jax.training.recording_counts import FILE, Counts, select_annotated

DRAWS = 2000
SEED = 0
PERCENTILES = (2.5, 97.5)

Score = tuple[str, str]
"""Task and key of a score in results.json, such as ("scene", "micro_f")."""


class RedrawnScores(NamedTuple):
    """Scores of the seeds of one system on drawn recordings.

    Attributes:
      recordings: task -> those drawn from, sorted.
      scores: float64 [shape=(seeds, DRAWS)] each; an error rate without active events is NaN.
    """

    recordings: dict[str, tuple[str, ...]]
    scores: dict[Score, np.ndarray]


@functools.lru_cache(maxsize=2)
def draw_recordings(recordings: int) -> np.ndarray:
    """Draws recordings; returns how often each one was drawn, float64 [shape=(DRAWS, recordings)], the same at every call."""
    draws = np.random.default_rng(SEED).multinomial(recordings, np.full(recordings, 1 / recordings), DRAWS)
    return draws.astype(np.float64)  # their products with counts are sums of whole numbers below 2^53, so exact


def score_draws(counts: Mapping[str, np.ndarray], draws: np.ndarray) -> dict[Score, np.ndarray]:
    """Scores a run on drawn recordings.

    Args:
      counts: by recording, as from `recording_counts.count_recordings`.
      draws: how often each recording was drawn, float64 [shape=(D, R)].

    Returns:
      The scores of the tasks that were counted, float64 [shape=(D,)] each.
    """
    scores: dict[Score, np.ndarray] = {}
    if "scene" in counts:
        answers = counts["answers"]
        is_true = counts["scene"][:, None] == np.arange(answers.shape[1])
        tp, true, answered = draws @ (answers * is_true), draws @ (answers.sum(1, keepdims=True) * is_true), draws @ answers
        scores["scene", "micro_f"] = 100 * metrics.ratio(tp.sum(1), true.sum(1))
        scores["scene", "macro_f"] = metrics.percent_f(tp, answered - tp, true - tp).mean(1)
    if "tp" in counts:
        tp, fp, fn = (draws @ counts[name] for name in ("tp", "fp", "fn"))
        errors, active = draws @ (counts["substitutions"] + counts["deletions"] + counts["insertions"]), draws @ counts["active"]
        scores["event", "micro_f"] = metrics.percent_f(tp.sum(1), fp.sum(1), fn.sum(1))
        scores["event", "macro_f"] = metrics.percent_f(tp, fp, fn).mean(1)
        scores["event", "error_rate"] = np.where(active > 0, metrics.ratio(errors, active), np.nan)
    return scores


def redraw_seeds(seeds: Sequence[Counts | None]) -> RedrawnScores | None:
    """Scores the seeds of a system on drawn recordings.

    Args:
      seeds: counts by recording of each seed, None where they are missing.

    Returns:
      The scores of the tasks for which all seeds were scored on the same recordings, two or more; None if counts are missing or
      there is no such task.
    """
    present = [counts for counts in seeds if counts is not None]
    if len(present) < len(seeds):
        return None
    redrawn = RedrawnScores({}, {})
    for task in ("scene", "event"):
        annotated = [selected for counts in present if (selected := select_annotated(counts, task)) is not None]
        names = {tuple(counts["recording"].tolist()) for counts in annotated}
        if len(annotated) < len(present) or len(names) != 1 or len(recordings := names.pop()) < 2:
            continue
        redrawn.recordings[task] = recordings
        scored = [score_draws(counts, draw_recordings(len(recordings))) for counts in annotated]
        redrawn.scores.update({score: np.stack([scores[score] for scores in scored]) for score in scored[0]})
    return redrawn if redrawn.scores else None


def mean_interval(redrawn: RedrawnScores | None, score: Score) -> list[float] | None:
    """Returns the 95 % percentile interval of a system's mean score, [low, high]; None without scores or if one is NaN."""
    return None if redrawn is None or score not in redrawn.scores else _percentiles(redrawn.scores[score].mean(0))


def difference_interval(
    redrawn: tuple[RedrawnScores | None, RedrawnScores | None], score: Score, seeds: tuple[Sequence[int], Sequence[int]]
) -> list[float] | None:
    """Returns the 95 % percentile interval of the difference of two systems, first minus second, on the same draws.

    Args:
      redrawn: scores of both systems.
      score: to compare.
      seeds: indices of the seeds that both have, in each of them.

    Returns:
      [low, high]; None without scores, or if the systems were scored on different recordings.
    """
    first, second = redrawn
    if first is None or second is None or score not in first.scores:
        return None
    if first.recordings[score[0]] != second.recordings.get(score[0]):
        return None
    means = [system.scores[score][list(indices)].mean(0) for system, indices in zip((first, second), seeds, strict=True)]
    return _percentiles(means[0] - means[1])


def _percentiles(values: np.ndarray) -> list[float] | None:
    return None if np.isnan(values).any() else np.percentile(values, PERCENTILES).tolist()


def note_missing(rows: Sequence[Mapping[str, Any]], *, folds: bool) -> str:
    """States which rows of results.json have no interval over recordings, and how to get it; "" if all have one.

    Args:
      rows: of results.json.
      folds: whether the experiment is a cross-validation, whose runs `--mode=evaluate` refuses.
    """
    tasks = ("scene", "event")
    missing = [row for row in rows if any(task in row and row[task]["micro_f"]["recordings_interval"] is None for task in tasks)]
    if not missing:
        return ""
    systems = ", ".join(format_system(row["system"], row["alpha"], row["sweep"]) for row in missing)
    remedy = (
        "only training again writes it for the runs of a cross-validation"
        if folds
        else "python -m mfl_jax.main --mode=evaluate --workdir=.../members/NAME writes it (docs/experiments.md)"
    )
    return (
        f"There is no interval over recordings of {systems}. It needs two annotated recordings or more, and for each run a "
        f"{FILE} that agrees with its results.json; runs scored by earlier versions have none: {remedy}."
    )
