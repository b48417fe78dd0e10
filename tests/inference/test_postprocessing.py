"""Post-processing rules against slow loops that follow their description, and the file of rules."""

import dataclasses
import json

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

from mfl_jax import metrics
from mfl_jax.errors import InputError
from mfl_jax.inference import postprocessing
from mfl_jax.inference.postprocessing import Rule

HOPS_S = [0.02, 0.01, 882 / 44_100, 160 / 8000, 512 / 44_100, 0.1]
EVENTS = ("high", "low")


def make_scores(rng, frames=120, events=None):
    """Smooth random scores on a coarse grid, so that many equal a threshold."""
    shape = (frames,) if events is None else (frames, events)
    noise = scipy.ndimage.uniform_filter1d(rng.standard_normal(shape), rng.integers(1, 9), axis=0)
    return (np.round((1 + np.tanh(3 * noise)) * 10) / 20).astype(np.float32)


# Slow references, in whole frames.


def slow_median(scores, frames):
    """The median of each window; the first and last score are repeated beyond the ends."""
    half, last = frames // 2, len(scores) - 1
    return np.array([sorted(scores[min(max(t + d, 0), last)] for d in range(-half, half + 1))[half] for t in range(len(scores))])


def slow_runs(active):
    runs, onset = [], None
    for frame, on in enumerate([*active, False]):
        if on and onset is None:
            onset = frame
        elif not on and onset is not None:
            runs.append([onset, frame])
            onset = None
    return runs


def slow_events(scores, high, low, gap_frames, least_frames):
    """Grows events from frames >= `high` as far as scores are >= `low`; merges across gaps; drops short ones."""
    active = [False] * len(scores)
    for frame in range(len(scores)):
        if scores[frame] >= np.float32(high):
            for way in (-1, 1):
                at = frame
                while 0 <= at < len(scores) and scores[at] >= np.float32(low):
                    active[at] = True
                    at += way
    runs = slow_runs(active)
    merged = runs[:1]
    for onset, offset in runs[1:]:
        if onset - merged[-1][1] <= gap_frames:
            merged[-1][1] = offset
        else:
            merged.append([onset, offset])
    return [[onset, offset] for onset, offset in merged if offset - onset >= least_frames]


# Runs and filters.


@pytest.mark.parametrize("frames", [0, 1, 2, 3, 50])
def test_runs_equal_those_of_a_loop(frames):
    rng = np.random.default_rng(frames)
    for share in (0.0, 0.1, 0.5, 0.9, 1.0):
        for _ in range(20):
            active = rng.random(frames) < share
            runs = postprocessing.find_runs(active)
            assert runs.shape == (len(runs), 2) and runs.tolist() == slow_runs(active)
            assert len(runs) == scipy.ndimage.label(active)[1]


@pytest.mark.parametrize("hop_s", HOPS_S)
@pytest.mark.parametrize("frames", [3, 5, 11, 47, 301])
def test_median_filter_equals_a_loop(frames, hop_s):
    rng = np.random.default_rng(frames)
    for length in (1, 2, 10, 120):
        scores = make_scores(rng, length)
        got = postprocessing.median_filter(scores, Rule(median_s=frames * hop_s), hop_s)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, slow_median(scores, frames))
        if length > frames:  # scipy.signal has zeros beyond the ends
            inner = slice(frames // 2, length - frames // 2)
            np.testing.assert_array_equal(got[inner], scipy.signal.medfilt(scores, frames)[inner])


def test_median_filter_has_an_odd_number_of_frames():
    scores = make_scores(np.random.default_rng(0))
    for median_s, frames in ((0.06, 3), (0.04, 3), (0.08, 5), (0.1, 5), (0.22, 11), (0.46, 23), (0.94, 47)):
        got = postprocessing.median_filter(scores, Rule(median_s=median_s), 0.02)
        np.testing.assert_array_equal(got, slow_median(scores, frames), err_msg=f"{median_s} s")
    for median_s in (0.0, 0.01, 0.02, 0.029):
        np.testing.assert_array_equal(postprocessing.median_filter(scores, Rule(median_s=median_s), 0.02), scores)


# Events.


def random_rule(rng, hop_s):
    """A rule whose times are whole numbers of hops; also returns them in frames."""
    median, gap, least = 2 * int(rng.integers(0, 4)) + 1, int(rng.integers(0, 8)), int(rng.integers(0, 8))
    threshold = round(float(rng.integers(2, 20)) * 0.05, 2)
    low = None if rng.random() < 0.4 else round(threshold * float(rng.choice([0.4, 0.6, 0.8, 1.0])), 4)
    times = dict(zip(("median_s", "max_gap_s", "min_duration_s"), (median * hop_s, gap * hop_s, least * hop_s), strict=True))
    return Rule(threshold=threshold, low_threshold=low, **times), median, gap, least


@pytest.mark.parametrize("hop_s", HOPS_S)
def test_random_rules_find_the_events_of_a_loop(hop_s):
    rng = np.random.default_rng(7)
    events = 0
    for _ in range(150):
        scores = make_scores(rng, int(rng.integers(1, 150)))
        rule, median, gap, least = random_rule(rng, hop_s)
        filtered = postprocessing.median_filter(scores, rule, hop_s)
        expected = slow_events(slow_median(scores, median), rule.threshold, rule.lowest, gap, least)
        runs = postprocessing.find_event_runs(filtered, rule, hop_s)
        assert runs.tolist() == expected, (rule, scores.tolist())
        events += len(expected)
    assert events > 300


@pytest.mark.parametrize("hop_s", HOPS_S)
def test_times_in_whole_hops_are_exact(hop_s):
    """Despite floating point, k hops close a gap of k hops, and an event of k hops is as long as k hops."""
    for k in [*range(1, 130), 500, 1000, 4999]:
        for seconds in (k * hop_s, round(k * hop_s, 6), float(np.float32(k * hop_s))):
            gap = np.zeros(k + 2, np.float32)
            gap[[0, -1]] = 1
            assert len(postprocessing.find_event_runs(gap, Rule(max_gap_s=seconds), hop_s)) == 1
            wider = np.insert(gap, 1, 0)
            assert len(postprocessing.find_event_runs(wider, Rule(max_gap_s=seconds), hop_s)) == 2
            event = np.pad(np.ones(k, np.float32), 1)
            assert len(postprocessing.find_event_runs(event, Rule(min_duration_s=seconds), hop_s)) == 1
            assert len(postprocessing.find_event_runs(event[1:-2], Rule(min_duration_s=seconds), hop_s)) == 0


def find_events(scores, **fields):
    return postprocessing.find_event_runs(np.float32(scores), Rule(**fields), 0.02).tolist()


def test_hysteresis_reaches_down_from_a_peak():
    scores = [0.3, 0.4, 0.7, 0.4, 0.3, 0.4, 0.2, 0.4, 0.4]
    assert find_events(scores, threshold=0.7, low_threshold=0.4) == [[1, 4]]
    assert find_events(scores, threshold=0.7, low_threshold=0.3) == [[0, 6]]
    assert find_events(scores, threshold=0.7) == find_events(scores, threshold=0.7, low_threshold=0.7) == [[2, 3]]
    assert find_events(scores, threshold=0.71, low_threshold=0.3) == []
    # A peak in the last frame, and one event after the other.
    assert find_events([0.4, 0.7], threshold=0.7, low_threshold=0.4) == [[0, 2]]
    assert find_events([0.7, 0.1, 0.4, 0.1, 0.4, 0.7], threshold=0.7, low_threshold=0.4) == [[0, 1], [4, 6]]


def test_gaps_are_closed_only_between_events_with_a_peak():
    """The weak run in the middle is not an event, so the gap spans it."""
    scores = [0.9, 0.1, 0.4, 0.1, 0.9]
    assert find_events(scores, threshold=0.8, low_threshold=0.4, max_gap_s=0.04) == [[0, 1], [4, 5]]
    assert find_events(scores, threshold=0.8, low_threshold=0.4, max_gap_s=0.06) == [[0, 5]]


def test_gaps_are_closed_before_short_events_are_dropped():
    scores = [1, 0, 1, 0, 1, 0, 0, 0, 1, 1]
    assert find_events(scores, max_gap_s=0.02, min_duration_s=0.1) == [[0, 5]]
    assert find_events(scores, min_duration_s=0.04) == [[8, 10]]


def test_median_filter_comes_first():
    """It removes a single high frame and fills in a missing one before the threshold applies."""
    scores = np.float32([0, 0, 1, 0, 0, 1, 1, 0, 1, 1])[:, None]
    rules = {"high": Rule(median_s=0.06)}
    assert postprocessing.find_runs_by_event(scores, ["high"], rules, 0.02)[0].tolist() == [[5, 10]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("threshold", [round(0.05 * step, 2) for step in range(1, 20)])
def test_score_equal_to_the_threshold_counts(threshold, dtype):
    """Multiples of 0.05 differ between float32 and float64, some up and some down."""
    scores = np.full((2, 1), threshold, dtype)
    rules = {"high": Rule(threshold=threshold)}
    assert postprocessing.mark_detected_frames(scores, ["high"], rules, 0.02).all()
    assert len(postprocessing.detect_events(scores, ["high"], rules, hop_s=0.02, duration_s=0.04)) == 1
    below = np.nextafter(scores.astype(np.float32), np.float32(0)).astype(dtype)
    assert not postprocessing.mark_detected_frames(below, ["high"], rules, 0.02).any()
    peak = {"high": Rule(threshold=threshold, low_threshold=threshold / 2)}
    assert postprocessing.mark_detected_frames(scores, ["high"], peak, 0.02).all()
    assert not postprocessing.mark_detected_frames(below, ["high"], peak, 0.02).any()


def test_threshold_without_other_rules_equals_evaluation():
    scores = make_scores(np.random.default_rng(3), 400, 5)
    labels = np.random.default_rng(4).random(scores.shape) < 0.3
    for threshold in (0.3, 0.5, 0.7):
        rules = dict.fromkeys("abcde", Rule(threshold=threshold))
        detected = postprocessing.mark_detected_frames(scores, "abcde", rules, 0.02)
        np.testing.assert_array_equal(detected, scores >= np.float32(threshold))
        assert metrics.frame_ratios(metrics.frame_counts(detected, labels)) == metrics.frame_scores(
            scores, labels, np.float32(threshold)
        )


def test_each_event_has_its_own_rule_or_the_default():
    scores = np.tile(np.float32([[0.4], [0.6], [0.4]]), (1, 3))
    rules = {"b": Rule(threshold=0.3), "c": Rule(threshold=0.9)}
    detected = postprocessing.mark_detected_frames(scores, "abc", rules, 0.02)
    np.testing.assert_array_equal(detected.T, [[False, True, False], [True] * 3, [False] * 3])


def test_detected_events_have_label_times_and_confidence():
    scores = np.zeros((55, 2), np.float32)
    scores[10:20, 0], scores[30:55, 0] = 0.75, 0.5
    scores[14, 0] = 0.25  # the gap is closed, and counts in the mean
    scores[10:12, 1] = 1
    rules = {"high": Rule(max_gap_s=0.02)}
    events = postprocessing.detect_events(scores, EVENTS, rules, hop_s=0.02, duration_s=1.0937)
    assert [(event.label, event.onset_s, event.offset_s) for event in events] == [
        ("high", 0.2, 0.4), ("low", 0.2, 0.24), ("high", 0.6, 1.0937),
    ]  # fmt: skip
    np.testing.assert_allclose([event.confidence for event in events], [(9 * 0.75 + 0.25) / 10, 1, 0.5])
    assert all(type(value) is float for event in events for value in (event.onset_s, event.offset_s, event.confidence))
    json.dumps([dataclasses.asdict(event) for event in events])


def test_events_and_frames_agree():
    rng = np.random.default_rng(11)
    for _ in range(40):
        scores = make_scores(rng, int(rng.integers(1, 200)), 2)
        rules = {label: random_rule(rng, 0.02)[0] for label in EVENTS}
        detected = postprocessing.mark_detected_frames(scores, EVENTS, rules, 0.02)
        again = np.zeros_like(detected)
        events = postprocessing.detect_events(scores, EVENTS, rules, hop_s=0.02, duration_s=len(scores) * 0.02)
        for event in events:
            again[round(event.onset_s / 0.02) : round(event.offset_s / 0.02), EVENTS.index(event.label)] = True
        np.testing.assert_array_equal(again, detected)
        assert list(events) == sorted(events, key=lambda event: (event.onset_s, event.label))


@pytest.mark.parametrize("shape", [(0, 2), (5, 0)])
def test_no_frames_or_no_events_give_nothing(shape):
    scores, events = np.zeros(shape, np.float32), EVENTS[: shape[1]]
    rules = dict.fromkeys(events, Rule(median_s=1, low_threshold=0.1, max_gap_s=1, min_duration_s=1))
    assert postprocessing.detect_events(scores, events, rules, hop_s=0.02, duration_s=0.0) == ()
    assert postprocessing.mark_detected_frames(scores, events, rules, 0.02).shape == shape


@pytest.mark.parametrize(
    "fields",
    [
        {"threshold": 0.0}, {"threshold": 1.01}, {"threshold": float("nan")}, {"low_threshold": 0.0}, {"low_threshold": 0.6},
        {"low_threshold": -0.1}, {"median_s": -1}, {"max_gap_s": float("inf")}, {"min_duration_s": float("nan")},
    ],
)  # fmt: skip
def test_invalid_rules_are_refused(fields):
    with pytest.raises(ValueError, match=str(next(iter(fields.values())))):
        Rule(**fields)


def test_threshold_of_one_and_equal_thresholds_are_valid():
    assert Rule(threshold=1.0).lowest == 1.0
    assert Rule(threshold=0.4, low_threshold=0.4).lowest == 0.4


# The file.


def write_rules(tmp_path, content):
    file = tmp_path / "rules.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def test_rules_are_read_as_they_were_written(tmp_path):
    rng = np.random.default_rng(1)
    for _ in range(20):
        rules = {label: random_rule(rng, 512 / 44_100)[0] for label in EVENTS}
        text = postprocessing.rules_to_json(rules, step=15, score="frame", held_out={"high": {"f_after": 1.0}})
        assert postprocessing.read_rules(write_rules(tmp_path, text), EVENTS, step=15) == rules
        assert json.loads(text)["step"] == 15


def test_missing_fields_and_events_have_defaults(tmp_path):
    file = write_rules(tmp_path, {"rules": {"low": {"threshold": 0.25, "low_threshold": None}}})
    assert postprocessing.read_rules(file, EVENTS) == {"high": Rule(), "low": Rule(threshold=0.25)}
    assert postprocessing.read_rules(str(write_rules(tmp_path, {"rules": {}})), EVENTS) == dict.fromkeys(EVENTS, Rule())


def test_star_is_the_rule_of_all_other_events(tmp_path):
    file = write_rules(tmp_path, {"rules": {"*": {"min_duration_s": 1}, "low": {}}})
    assert postprocessing.read_rules(file, EVENTS) == {"high": Rule(min_duration_s=1.0), "low": Rule()}
    assert list(postprocessing.read_rules(file, EVENTS)) == list(EVENTS)


def test_rules_of_another_checkpoint_give_a_warning(tmp_path, capsys):
    file = write_rules(tmp_path, postprocessing.rules_to_json({}, step=15))
    postprocessing.read_rules(file, EVENTS, step=15)
    postprocessing.read_rules(file, EVENTS)
    postprocessing.read_rules(write_rules(tmp_path, {"rules": {}}), EVENTS, step=15)
    assert capsys.readouterr().err == ""
    write_rules(tmp_path, postprocessing.rules_to_json({}, step=15))
    postprocessing.read_rules(file, EVENTS, step=20)
    warning = capsys.readouterr().err
    assert "step 15" in warning and "step 20" in warning and str(file) in warning and warning.count("\n") == 1


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "3", '"rules"', "{}", '{"rule": {}}', '{"rules": null}', '{"rules": 3}', '{"rules": "abc"}',
        '{"rules": [1]}', "[" * 100_000,
    ],
)  # fmt: skip
def test_files_without_rules_are_refused(tmp_path, content):
    file = write_rules(tmp_path, content)
    with pytest.raises(InputError) as error:
        postprocessing.read_rules(file, EVENTS)
    assert str(file) in str(error.value) and "\n" not in str(error.value) and "rules" in str(error.value)


def test_unreadable_files_are_refused(tmp_path):
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\xff\xfe\x00")
    for file in (tmp_path / "missing.json", tmp_path, binary):
        with pytest.raises(InputError) as error:
            postprocessing.read_rules(file, EVENTS)
        assert str(file) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "fields",
    [
        None, [], "abc", 3, {"threshold": None}, {"threshold": "much"}, {"threshold": [0.5]}, {"threshold": 0},
        {"threshold": 1.5}, {"threshold": float("nan")}, {"threshold": 10**400}, {"tresholt": 0.5}, {"low_threshold": 0.9},
        {"low_threshold": 0}, {"median_s": -0.1}, {"max_gap_s": float("inf")}, {"min_duration_s": None},
    ],
)  # fmt: skip
def test_invalid_rule_is_named_by_its_event(tmp_path, fields):
    file = write_rules(tmp_path, {"rules": {"high": {}, "low": fields}})
    with pytest.raises(InputError) as error:
        postprocessing.read_rules(file, EVENTS)
    message = str(error.value)
    assert str(file) in message and "'low'" in message and "\n" not in message


def test_rules_find_their_event_in_any_spelling(tmp_path):
    file = write_rules(tmp_path, {"rules": {"h\u00fcndin": {"threshold": 0.25}}})
    assert postprocessing.read_rules(file, ["hu\u0308ndin"]) == {"hu\u0308ndin": Rule(threshold=0.25)}


@pytest.mark.parametrize("find", [postprocessing.find_runs_by_event, postprocessing.mark_detected_frames])
def test_rules_of_unknown_events_are_refused(find):
    scores = np.zeros((3, 2), np.float32)
    with pytest.raises(InputError, match="the rules name the event 'cat'; the model knows car, dog"):
        find(scores, ["car", "dog"], {"car": Rule(), "cat": Rule()}, 0.02)
    with pytest.raises(InputError, match="the model knows no events"):
        postprocessing.check_rules({"cat": Rule()}, ())


def test_unknown_event_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"rules\.json: unknown event 'hihg'; the model knows high, low"):
        postprocessing.read_rules(write_rules(tmp_path, {"rules": {"hihg": {}}}), EVENTS)
