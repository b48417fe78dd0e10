"""Statistics of repeated trainings: means with confidence intervals, paired differences, and verdicts in words."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.stats

CONFIDENCE = 0.95
FEWEST_PAIRS = 3
"""Fewer paired runs never give a verdict."""


@dataclasses.dataclass(frozen=True)
class Summary:
    """Statistics of repeats.

    Attributes:
      n: number of repeats.
      mean: their mean.
      std: sample standard deviation (n - 1); None for one repeat.
      interval: 95 % confidence interval of the mean by Student's t; None for one repeat.
    """

    n: int
    mean: float
    std: float | None
    interval: tuple[float, float] | None


def summarise_repeats(values: Sequence[float]) -> Summary:
    """Computes mean, standard deviation and confidence interval of repeats.

    Raises:
      ValueError: there is no value, or one is not finite.
    """
    array = np.asarray(values, np.float64)
    if not array.size or not np.isfinite(array).all():
        raise ValueError(f"a mean needs at least one value, all of them finite, not {array.tolist()}")
    mean = float(array.mean())
    if array.size == 1:
        return Summary(1, mean, None, None)
    std = float(array.std(ddof=1))
    half = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, array.size - 1)) * std / math.sqrt(array.size)
    return Summary(array.size, mean, std, (mean - half, mean + half))


@dataclasses.dataclass(frozen=True)
class PairedComparison:
    """Two systems on the same seeds, first minus second.

    Attributes:
      difference: statistics of the differences.
      p_t: two-sided p of the paired t-test; None for one pair.
      p_wilcoxon: two-sided p of the signed-rank test, which assumes no normal distribution; None for one pair or equal pairs.
      effect_size: Hedges' g of paired values: mean over standard deviation of the differences, corrected for the few pairs
        (`hedges_correction`); None without a spread and for fewer than three pairs.
    """

    difference: Summary
    p_t: float | None
    p_wilcoxon: float | None
    effect_size: float | None


def compare_pairs(first: Sequence[float], second: Sequence[float]) -> PairedComparison:
    """Compares two systems run by run.

    Args:
      first: one value per seed.
      second: one value per seed, in the same order of seeds.

    Raises:
      ValueError: the lengths differ, or `summarise_repeats` refuses the values.
    """
    if len(first) != len(second):
        raise ValueError(f"pairs need as many values on both sides, not {len(first)} and {len(second)}")
    differences = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    difference = summarise_repeats(differences.tolist())
    if difference.std is None:
        return PairedComparison(difference, None, None, None)
    if not differences.any():
        return PairedComparison(difference, 1.0, None, None)
    p_t: float
    effect_size: float | None
    if difference.std <= 1e-12 * abs(difference.mean):  # all differences equal: the limit of the t-test
        p_t, effect_size = 0.0, None
    else:
        p_t = float(scipy.stats.ttest_rel(first, second).pvalue)
        effect_size = difference.mean / difference.std * hedges_correction(difference.n) if difference.n > 2 else None
    return PairedComparison(difference, p_t, float(scipy.stats.wilcoxon(differences).pvalue), effect_size)


def hedges_correction(pairs: int) -> float:
    """Returns the factor that makes Cohen's d of paired values unbiased (Hedges 1981), for at least three pairs.

    With m = pairs - 1 degrees of freedom it is Gamma(m / 2) / (sqrt(m / 2) Gamma((m - 1) / 2)).
    """
    m = pairs - 1
    return math.exp(math.lgamma(m / 2) - math.lgamma((m - 1) / 2)) / math.sqrt(m / 2)


def correct_holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Corrects p values for their number (Holm 1979), so that any error among them keeps its level; None is no test."""
    tests = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, index) in enumerate(tests):
        highest = max(highest, min(1.0, p * (len(tests) - rank)))
        corrected[index] = highest
    return corrected


def state_verdict(comparison: PairedComparison, *, first: str, second: str, score: str) -> str:
    """States whether the first system is better or worse than the second, or that there is too little evidence.

    A verdict needs at least `FEWEST_PAIRS` pairs and a 95 % confidence interval of the difference that excludes zero.
    """
    difference = comparison.difference
    figures = f"{difference.mean:+.2f} points over {difference.n} paired run{'' if difference.n == 1 else 's'}"
    if difference.interval is not None:
        figures += f", 95 % confidence interval {difference.interval[0]:+.2f} to {difference.interval[1]:+.2f}"
    if comparison.p_t is not None:
        figures += f", p = {comparison.p_t:.2g}"
    if comparison.effect_size is not None:
        figures += f", g = {comparison.effect_size:.2f}"
    if difference.n < FEWEST_PAIRS or difference.interval is None or difference.interval[0] <= 0 <= difference.interval[1]:
        return f"{score}: too little evidence that {first} differs from {second} ({figures})"
    better = "better" if difference.mean > 0 else "worse"
    return f"{score}: {first} is {better} than {second} ({figures})"
