"""Statistics of repeats against closed forms by mpmath and textbook values."""

import math

import mpmath
import numpy as np
import pytest

from mfl_jax.reporting import statistics

VALUES = [55.1, 54.2, 57.9, 53.3, 56.0]
OTHERS = [52.0, 53.1, 53.5, 53.6, 52.2]


def t_quantile(p, df):
    """Student's quantile, by its distribution function as an incomplete beta function."""

    def cdf(t):
        tail = mpmath.betainc(df / 2, mpmath.mpf(1) / 2, 0, df / (df + t * t), regularized=True) / 2
        return 1 - tail

    return mpmath.findroot(lambda t: cdf(t) - p, 2)


def test_t_quantile_equals_the_textbook_value():
    assert float(t_quantile(0.975, 4)) == pytest.approx(2.776445, abs=1e-6)


def test_summary_equals_its_definition():
    got = statistics.summarise_repeats(VALUES)
    mean = sum(VALUES) / 5
    std = math.sqrt(sum((v - mean) ** 2 for v in VALUES) / 4)
    half = float(t_quantile(mpmath.mpf("0.975"), 4)) * std / math.sqrt(5)
    assert (got.n, got.mean, got.std) == (5, pytest.approx(mean), pytest.approx(std))
    assert got.interval == pytest.approx((mean - half, mean + half), rel=1e-9)


def test_one_value_has_no_spread():
    assert statistics.summarise_repeats([3.0]) == statistics.Summary(1, 3.0, None, None)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_summary_refuses_missing_and_infinite_values(values):
    with pytest.raises(ValueError, match="at least one value, all of them finite"):
        statistics.summarise_repeats(values)


def test_interval_covers_the_true_mean_with_its_confidence():
    rng = np.random.default_rng(0)
    runs = rng.normal(7, 3, (4000, 4))
    covered = np.mean([low <= 7 <= high for low, high in (statistics.summarise_repeats(run).interval for run in runs)])
    assert covered == pytest.approx(0.95, abs=0.012)  # 3.5 standard errors


def test_paired_equals_its_definition():
    got = statistics.compare_pairs(VALUES, OTHERS)
    d = [a - b for a, b in zip(VALUES, OTHERS, strict=True)]
    mean = sum(d) / 5
    std = math.sqrt(sum((x - mean) ** 2 for x in d) / 4)
    t = mean / (std / math.sqrt(5))
    p = float(mpmath.betainc(2, mpmath.mpf(1) / 2, 0, 4 / (4 + mpmath.mpf(t) ** 2), regularized=True))
    assert got.difference.mean == pytest.approx(mean)
    assert got.p_t == pytest.approx(p, rel=1e-9)
    # Hedges' factor for 4 degrees of freedom: Gamma(2) / (sqrt(2) Gamma(3 / 2)).
    assert got.effect_size == pytest.approx(mean / std * 1 / (math.sqrt(2) * math.sqrt(math.pi) / 2))
    # Signed ranks: one of the five differences, the smallest, is negative. 2 * P(W <= 1) = 2 * 2 / 2^5.
    assert got.p_wilcoxon == pytest.approx(4 / 32)


def test_pairing_removes_the_spread_between_seeds():
    # The spread between seeds is far larger than the constant gain.
    base = np.array([30.0, 50.0, 70.0, 90.0])
    got = statistics.compare_pairs(base + np.array([1.0, 1.1, 0.9, 1.0]), base)
    assert got.p_t < 0.001 and got.difference.interval[0] > 0.8


def test_hedges_correction_removes_the_bias_of_few_pairs():
    rng = np.random.default_rng(0)
    pairs = rng.normal(0.7, 1, (200_000, 4))
    d = pairs.mean(1) / pairs.std(1, ddof=1)
    assert d.mean() > 0.9 and d.mean() * statistics.hedges_correction(4) == pytest.approx(0.7, abs=0.01)
    assert statistics.compare_pairs([1.0, 3.0], [0.0, 0.0]).effect_size is None


def test_holm_equals_its_definition():
    # Ordered: 0.01 * 4 = 0.04, 0.02 * 3 = 0.06, 0.03 * 2 = 0.06, 0.9 * 1.
    assert statistics.correct_holm([0.02, 0.9, 0.01, 0.03]) == pytest.approx([0.06, 0.9, 0.04, 0.06])
    assert statistics.correct_holm([None, 0.04]) == [None, 0.04]  # one test needs no correction
    assert statistics.correct_holm([0.6, 0.7]) == [1.0, 1.0] and statistics.correct_holm([]) == []


@pytest.mark.parametrize(("first", "p_t"), [([1.0, 2.0, 3.0], 1.0), ([2.0, 3.0, 4.0], 0.0)], ids=["equal", "apart by a constant"])
def test_paired_without_any_spread(first, p_t):
    got = statistics.compare_pairs(first, [1.0, 2.0, 3.0])
    assert got.p_t == p_t and got.effect_size is None and got.difference.std == 0


def test_paired_refuses_unequal_lengths():
    with pytest.raises(ValueError, match="as many values on both sides, not 2 and 3"):
        statistics.compare_pairs([1.0, 2.0], [1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("first", "text"),
    [
        ([3.0, 4.1, 5.0], "is better than b (+2.03 points over 3 paired runs"),
        ([-1.0, 0.1, 1.0], "is worse than b (-1.97 points"),
        ([1.0, 2.5, 2.8], "too little evidence that a differs from b"),
        ([9.0], "too little evidence that a differs from b (+8.00 points over 1 paired run)"),
    ],
)
def test_verdict(first, text):
    second = [1.0, 2.0, 3.0][: len(first)]
    sentence = statistics.state_verdict(statistics.compare_pairs(first, second), first="a", second="b", score="event micro F")
    assert sentence.startswith("event micro F: ") and text in sentence


def test_two_pairs_are_never_enough():
    sentence = statistics.state_verdict(statistics.compare_pairs([9.0, 9.1], [1.0, 1.1]), first="a", second="b", score="s")
    assert "too little evidence" in sentence
