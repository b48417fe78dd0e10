"""Cross-fitted counts, by hand: rules chosen on three parts and applied to the fourth."""

import numpy as np
import pytest

from mfl_jax.data.annotation import Recording
from mfl_jax.inference.postprocessing import Rule
from mfl_jax.scoring import cross_fit
from mfl_jax.scoring.rule_search import RuleCounts, choose_rule, compute_f

PARTS = np.array([1, 2, 3, 4])


def blocks(low, high, frames=100):
    """Scores of a recording with `frames` inactive frames and as many active ones."""
    return np.repeat(np.array([low, high], np.float32), frames)


def fit(scores, active, parts=PARTS):
    """Returns F on the recordings that the rule was chosen on, and cross-fitted F."""
    counts = RuleCounts(scores, active, "frame", 0.02)
    pooled = cross_fit.pool_counts(parts, lambda chosen: choose_rule(counts, Rule(), chosen), counts)
    return compute_f(counts(choose_rule(counts, Rule()))), compute_f(pooled)


ACTIVE = np.repeat([False, True], 100)


def test_equal_parts_have_equal_f():
    """A fifth of the active frames can't be told from the others."""
    recording = np.concatenate([blocks(0.2, 0.6)[:-20], np.full(20, 0.2, np.float32)])
    in_sample, cross_fitted = fit([recording] * 4, [ACTIVE] * 4)
    assert in_sample == cross_fitted == pytest.approx(2 * 80 / (2 * 80 + 20))


def test_thresholds_that_differ_between_parts_lower_f():
    """Parts 1 and 2 have inactive frames at 0.1 and active ones at 0.3; parts 3 and 4 have 0.3 and 0.6, and part 4 is longer.

    All: a threshold up to 0.3 has 600 hits and 400 false alarms, F = 1200 / 1600. One up to 0.6 has 400 hits and misses 200, F =
    800 / 1000, and is chosen. Without part 1 (or 2), it has 400 hits and 100 misses, and is chosen: part 1 and part 2 are missed.
    Without part 3, likewise 300 hits and 200 misses, F = 600 / 800, against 500 hits and 300 false alarms, 1000 / 1300: 0.3 is
    chosen, and part 3 has 100 hits and 100 false alarms. Without part 4, 300 hits and 100 false alarms, 600 / 700, against 100
    hits: 0.3, so part 4 has 300 hits and 300 false alarms.
    """
    scores = [blocks(0.1, 0.3), blocks(0.1, 0.3), blocks(0.3, 0.6), blocks(0.3, 0.6, 300)]
    active = [ACTIVE, ACTIVE, ACTIVE, np.repeat([False, True], 300)]
    in_sample, cross_fitted = fit(scores, active)
    assert in_sample == pytest.approx(800 / 1000)
    hits, false, missed = 100 + 300, 100 + 300, 100 + 100
    assert cross_fitted == pytest.approx(2 * hits / (2 * hits + false + missed)) and cross_fitted < in_sample


def test_an_event_of_one_part_keeps_the_first_rule_there():
    """No other part says how part 1 is best detected, so 0.5 stays; where 0.25 is chosen from it, false alarms count."""
    scores, active = [blocks(0.1, 0.3), *[blocks(0.1, 0.28)] * 3], [ACTIVE, *[np.zeros(200, bool)] * 3]
    in_sample, cross_fitted = fit(scores, active)
    assert (in_sample, cross_fitted) == (1.0, 0.0)  # 0.3 has no false alarm on all; 0.5 misses part 1
    assert fit(scores, [np.zeros(200, bool)] * 4) == (0.0, 0.0)


def test_an_event_that_a_part_lacks_counts_its_false_alarms_there():
    """Parts 1 to 3 agree on 0.5 to 0.8; part 4 has no event and half of its frames are above."""
    scores, active = [blocks(0.1, 0.8)] * 4, [ACTIVE] * 3 + [np.zeros(200, bool)]
    assert fit(scores, active) == pytest.approx((600 / (600 + 100), 600 / (600 + 100)))


def make_recordings(count, scenes=1, groups=()):
    return [Recording(f"{n}.wav", f"scene {n % scenes}", (), groups[n] if n < len(groups) else "") for n in range(count)]


@pytest.mark.parametrize("scenes", [1, 2, 4, 8])
def test_recordings_are_divided_into_four_parts(scenes):
    recordings = make_recordings(8, scenes)
    parts, missing = cross_fit.divide_recordings(recordings[::-1], {recording.path: 50 for recording in recordings})
    assert sorted(parts) == [1, 1, 2, 2, 3, 3, 4, 4] and missing == ""


def test_groups_are_not_divided():
    recordings = make_recordings(6, groups=["a", "b", "a", "c", "d", "a"])
    parts, _ = cross_fit.divide_recordings(recordings, dict.fromkeys((r.path for r in recordings), 50))
    assert parts.tolist() == [1, 2, 1, 3, 4, 1]


@pytest.mark.parametrize(
    ("recordings", "missing"),
    [
        (make_recordings(3), "4 parts need 4 recordings, but 3 were held out"),
        (make_recordings(0), "4 parts need 4 recordings, but 0 were held out"),
        (make_recordings(5, groups=["a", "a", "a", "b"]), "4 parts need 4 groups of recordings, but 3 were held out"),
    ],
)
def test_too_few_recordings_have_no_parts(recordings, missing):
    assert cross_fit.divide_recordings(recordings, {recording.path: 9 for recording in recordings}) == (None, missing)
