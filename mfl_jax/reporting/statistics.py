"""What repeated trainings say: means with their confidence, paired differences, and a verdict in a sentence."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.stats

CONFIDENCE = 0.95
FEWEST_PAIRS = 3
"""With fewer paired runs no verdict is given, whatever they say."""


@dataclasses.dataclass(frozen=True)
class Summary:
    """Repeats of one figure.

    Attributes:
      n: how many. mean: of them.
      std: sample standard deviation (n - 1), None for fewer than two.
      interval: the 95 % confidence interval of the mean by Student's t, None for fewer than two.
    """

    n: int
    mean: float
    std: float | None
    interval: tuple[float, float] | None


def summary(values: Sequence[float]) -> Summary:
    """Mean, standard deviation and confidence interval of repeats.

    Raises:
      ValueError: there is no value, or one is no finite number.
    """
    values = np.asarray(values, np.float64)
    if not values.size or not np.isfinite(values).all():
        raise ValueError(f"a mean needs at least one finite value and no other, not {values.tolist()}")
    mean = float(values.mean())
    if values.size == 1:
        return Summary(1, mean, None, None)
    std = float(values.std(ddof=1))
    half = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, values.size - 1)) * std / math.sqrt(values.size)
    return Summary(values.size, mean, std, (mean - half, mean + half))


@dataclasses.dataclass(frozen=True)
class Paired:
    """Two systems on the same seeds, first minus second.

    Attributes:
      difference: of the means, with its standard deviation over the pairs and its confidence interval.
      p_t: two-sided p of the paired t-test, None where it can't be had (fewer than two pairs).
      p_wilcoxon: two-sided p of the signed-rank test, which asks for no normal distribution; None as well where all pairs
        are equal.
      effect_size: Cohen's d of paired values, mean by standard deviation of the differences; None without a spread.
    """

    difference: Summary
    p_t: float | None
    p_wilcoxon: float | None
    effect_size: float | None


def paired(first: Sequence[float], second: Sequence[float]) -> Paired:
    """Compares two systems run by run.

    Args:
      first, second: one value a seed, in the same order of seeds.

    Raises:
      ValueError: the lengths differ, or `summary` refuses the values.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape != second.shape:
        raise ValueError(f"pairs need as many values on both sides, not {len(first)} and {len(second)}")
    differences = first - second
    difference = summary(differences)
    if difference.n < 2:
        return Paired(difference, None, None, None)
    if not differences.any():
        return Paired(difference, 1.0, None, None)
    if difference.std <= 1e-12 * abs(difference.mean):  # all pairs differ by the same: the tests' limit
        p_t, effect = 0.0, None
    else:
        p_t = float(scipy.stats.ttest_rel(first, second).pvalue)
        effect = difference.mean / difference.std
    return Paired(difference, p_t, float(scipy.stats.wilcoxon(differences).pvalue), effect)


def verdict(comparison: Paired, *, first: str, second: str, score: str) -> str:
    """Says whether the first system is better than the second, or that there is too little evidence.

    Better or worse is said where the 95 % confidence interval of the difference leaves out zero, from three pairs on.
    """
    difference = comparison.difference
    measured = f"{difference.mean:+.2f} points over {difference.n} paired run{'' if difference.n == 1 else 's'}"
    if difference.interval is not None:
        measured += f", 95 % confidence interval {difference.interval[0]:+.2f} to {difference.interval[1]:+.2f}"
    if comparison.p_t is not None:
        measured += f", p = {comparison.p_t:.2g}"
    if comparison.effect_size is not None:
        measured += f", d = {comparison.effect_size:.2f}"
    if difference.n < FEWEST_PAIRS or difference.interval is None or difference.interval[0] <= 0 <= difference.interval[1]:
        return f"{score}: too little evidence that {first} differs from {second} ({measured})"
    better = "better" if difference.mean > 0 else "worse"
    return f"{score}: {first} is {better} than {second} ({measured})"
