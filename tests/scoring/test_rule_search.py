"""The search for rules: on constructed scores, and against brute force."""

import numpy as np
import pytest
import sklearn.metrics

from mfl_jax.inference import postprocessing
from mfl_jax.inference.postprocessing import Rule
from mfl_jax.scoring import rule_search
from mfl_jax.scoring.rule_search import RuleCounts, choose_rule, compute_f, count_frames

pytestmark = pytest.mark.lightly_optimised

HOP_S = 0.02


# F-scores.


def random_frames(rng, recordings=4):
    """Detected and active frames of recordings of random lengths."""
    lengths = rng.integers(1, 400, recordings)
    return tuple([np.repeat(rng.random(-(-n // 7)) < share, 7)[:n] for n in lengths] for share in (0.3, 0.4))


def compute_f_score(detected, active, score, hop_s):
    return compute_f(count_frames(detected, active, score, hop_s))


def test_f_of_frames_equals_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    for _ in range(30):
        detected, active = random_frames(rng)
        expected = sklearn.metrics.f1_score(np.concatenate(active), np.concatenate(detected), zero_division=0)
        assert compute_f_score(detected, active, "frame", HOP_S) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("hop_samples", "rate"), [(160, 8000), (882, 44_100), (1, 3), (900, 44_100), (512, 44_100)])
def test_f_of_segments_equals_a_loop(hop_samples, rate):
    """A segment is active if an active frame overlaps it; segments do not cross recordings."""
    rng = np.random.default_rng(1)
    for _ in range(30):
        detected, active = random_frames(rng)
        tp = fp = fn = 0
        for recording_detected, recording_active in zip(detected, active, strict=True):
            # In samples: a frame that straddles a second counts in both segments.
            for segment in range(-(-len(recording_active) * hop_samples // rate)):
                start, end = segment * rate, (segment + 1) * rate
                number = len(recording_active)
                frames = [t for t in range(number) if t * hop_samples < end and (t + 1) * hop_samples > start]
                guess, truth = any(recording_detected[frames]), any(recording_active[frames])
                tp, fp, fn = tp + (guess and truth), fp + (guess and not truth), fn + (truth and not guess)
        expected = 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0
        assert compute_f_score(detected, active, "segment", hop_samples / rate) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("score", ["frame", "segment"])
def test_f_without_events_is_0(score):
    for recordings in ([], [np.zeros(0, bool)], [np.zeros(70, bool)] * 2):
        assert compute_f_score(recordings, recordings, score, HOP_S) == 0.0
    assert compute_f_score([np.ones(70, bool)], [np.ones(70, bool)], score, HOP_S) == 1.0


# The choice.


def blocks(*lengths_and_values):
    return np.concatenate([np.full(length, value, np.float32) for length, value in lengths_and_values])


def choose(scores, active, *, start=None, score="frame"):
    """Returns the rule, and the F-scores of `start` and of the rule."""
    start, counts = start or Rule(), RuleCounts(scores, active, score, HOP_S)
    rule = choose_rule(counts, start)
    return rule, compute_f(counts(start)), compute_f(counts(rule))


@pytest.mark.parametrize("score", ["frame", "segment"])
@pytest.mark.parametrize("threshold", rule_search.THRESHOLDS)
def test_separating_threshold_is_found(threshold, score):
    """Only this threshold of the grid separates the scores of active and inactive frames."""
    scores = [blocks((200, threshold - 0.04), (300, threshold), (200, threshold - 0.04)), blocks((100, threshold - 0.01))]
    active = [recording >= np.float32(threshold) for recording in scores]
    rule, before, after = choose(scores, active, score=score)
    assert (rule.threshold, after) == (threshold, 1.0)
    assert before == pytest.approx(compute_f_score([s >= 0.5 for s in scores], active, score, HOP_S))


def test_middle_one_of_equal_thresholds_is_used():
    """0.25 to 0.75 are all perfect; the start, 0.9, is not."""
    scores = [blocks((300, 0.2), (300, 0.78), (300, 0.2))]
    rule, before, after = choose(scores, [scores[0] > 0.5], start=Rule(threshold=0.9))
    assert (rule.threshold, before, after) == (0.5, 0.0, 1.0)


def test_useless_filter_is_not_used():
    """Long events with clear edges: median filters change nothing."""
    scores = [blocks((300, 0.1), (300, 0.32), (300, 0.1))]
    rule, _, after = choose(scores, [scores[0] > 0.2])
    assert after == 1.0 and rule == Rule(threshold=rule.threshold)


def test_start_is_kept_if_no_rule_is_better():
    scores = [blocks((300, 0.1), (300, 0.9), (300, 0.1))]
    start = Rule(threshold=0.35)
    assert choose(scores, [scores[0] > 0.5], start=start) == (start, 1.0, 1.0)


def test_median_filter_is_found():
    """No threshold separates clicks and holes of one frame from events."""
    scores = blocks((200, 0.1), (200, 0.9), (200, 0.1))
    active = [scores > 0.5]
    scores[[50, 90, 450, 555]], scores[[250, 290, 333]] = 0.95, 0.05
    rule, before, after = choose([scores], active)
    assert rule.median_s > 0 and before < 1 and after == 1.0


def test_hysteresis_is_found():
    """The event has a peak; a false alarm is as high as the rest of the event."""
    scores = blocks((100, 0.1), (60, 0.4), (60, 0.8), (60, 0.4), (200, 0.1), (400, 0.4), (100, 0.1))
    active = np.zeros(len(scores), bool)
    active[100:280] = True
    rule, before, after = choose([scores], [active])
    assert rule.low_threshold is not None and rule.low_threshold <= 0.4 < rule.threshold <= 0.8
    assert before < after == 1.0


def test_gap_and_shortest_duration_are_found():
    """An event with holes of 0.6 s, longer than its parts, and false alarms of 0.16 s far from it."""
    hit, hole, quiet, alarm = (10, 0.9), (30, 0.1), (150, 0.1), (8, 0.9)
    scores = blocks(quiet, hit, hole, hit, hole, hit, quiet, alarm, quiet, alarm)
    active = np.zeros(len(scores), bool)
    active[150:240] = True
    rule, before, after = choose([scores], [active])
    assert rule == Rule(threshold=0.5, max_gap_s=0.8, min_duration_s=rule.min_duration_s) and rule.min_duration_s >= 0.2
    assert before < after == 1.0


def random_task(rng):
    """Noisy scores of events in a few recordings."""
    active = [np.repeat(rng.random(20) < 0.3, 15)[: rng.integers(100, 300)] for _ in range(3)]
    scores = [
        np.clip(0.3 * a + rng.uniform(0, 0.6) + 0.25 * rng.standard_normal(len(a)), 0, 1).astype(np.float32) for a in active
    ]
    return scores, active


def detect_frames(scores, rule):
    return postprocessing.mark_detected_frames(scores[:, None], ["x"], {"x": rule}, HOP_S)[:, 0]


@pytest.mark.parametrize("score", ["frame", "segment"])
def test_rule_is_at_least_as_good_as_the_grid_and_the_start(score):
    rng = np.random.default_rng(2)
    for _ in range(6):
        scores, active = random_task(rng)
        start = Rule(threshold=round(float(rng.uniform(0.1, 0.9)), 2), min_duration_s=float(rng.choice([0, 0.1])))
        rule, before, after = choose(scores, active, start=start, score=score)

        def score_rule(rule, scores=scores, active=active):
            return compute_f_score([detect_frames(s, rule) for s in scores], active, score, HOP_S)

        assert before == pytest.approx(score_rule(start), abs=1e-12)
        assert after == pytest.approx(score_rule(rule), abs=1e-12) and after >= before
        grid = [
            Rule(m, t, None, start.max_gap_s, start.min_duration_s) for m in rule_search.MEDIANS_S for t in rule_search.THRESHOLDS
        ]
        assert after >= max(map(score_rule, grid)) - 1e-12


def test_event_without_labels_keeps_its_rule():
    start = Rule(threshold=0.7, median_s=0.1)
    scores = [np.full(50, 0.9, np.float32), np.zeros(10, np.float32)]
    assert choose(scores, [np.zeros(50, bool), np.zeros(10, bool)], start=start) == (start, 0.0, 0.0)
    assert choose([], [], start=start) == (start, 0.0, 0.0)


def test_a_rule_is_chosen_only_on_the_given_recordings():
    """The recordings need 0.3 and 0.7."""
    scores = [blocks((100, 0.26), (100, 0.3)), blocks((100, 0.66), (100, 0.7))]
    active = [scores[0] > 0.28, scores[1] > 0.68]
    counts = RuleCounts(scores, active, "frame", HOP_S)
    assert [choose_rule(counts, Rule(), np.array(chosen)).threshold for chosen in ([True, False], [False, True])] == [0.3, 0.7]
    assert counts(Rule(threshold=0.7)).tolist() == [[0, 100], [100, 200]]  # missed; all found
    assert choose_rule(counts, Rule(threshold=0.9), np.zeros(2, bool)) == Rule(threshold=0.9)
