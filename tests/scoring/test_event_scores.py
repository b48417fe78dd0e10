"""Scores of events from frame scores: by hand, and at the edges of what is defined."""

import json

import numpy as np
import pytest

from mfl_jax.data.annotation import Event
from mfl_jax.errors import InputError
from mfl_jax.inference.prediction import DetectedEvent
from mfl_jax.scoring import event_list_scores, event_scores
from mfl_jax.scoring.event_list_scores import Tolerances
from support.event_examples import HOP, REFERENCE, SCORES, events, print_to_text, score_spans

pytest.importorskip("sed_scores_eval")


def test_psds_of_one_class_by_hand():
    scores = event_scores.score_frames(SCORES, REFERENCE, ["a"], **HOP)
    # One of two events at no false positive, both at 30 an hour and above; at 60 nothing is gained.
    for name in ("psds1", "psds2"):
        assert scores[name]["psds"] == scores[name]["class_psds"]["a"] == pytest.approx(0.3 * 0.5 + 0.7)
        curve = dict(zip(scores[name]["false_per_hour"], scores[name]["tp_ratio"], strict=True))
        assert (curve[0], curve[29], curve[30], curve[100]) == (0.5, 0.5, 1, 1)
        assert scores[name]["class_tp_ratio"]["a"] == scores[name]["tp_ratio"]
    assert scores["recordings"] == 4 and scores["hours"] == pytest.approx(1 / 30) and scores["thresholds"] == "all"


def test_best_thresholds_by_hand():
    scores = event_scores.score_frames(SCORES, REFERENCE, ["a"], kinds=("segment", "event"), **HOP)
    assert sorted(scores) == ["event", "hours", "recordings", "segment", "thresholds", "without_reference"]
    # At 0.7: two events and one false one; ten segments and three false ones.
    for kind, f, precision in (("event", 80, 200 / 3), ("segment", 2000 / 23, 1000 / 13)):
        best = scores[kind]["best"]
        class_scores = {"f": pytest.approx(f), "precision": pytest.approx(precision), "recall": 100, "threshold": np.float32(0.7)}
        assert best == {
            "micro_f": pytest.approx(f), "macro_f": pytest.approx(f), "threshold": np.float32(0.7), "class": {"a": class_scores},
        }  # fmt: skip
    assert scores["segment"]["average_precision"]["class"] == {"a": pytest.approx(0.5 + 0.5 * 10 / 13)}
    # At 0.5: two more.
    assert scores["event"]["micro_f"] == pytest.approx(100 * 4 / (2 + 4))
    assert scores["segment"]["micro_f"] == pytest.approx(100 * 20 / (10 + 16))


def test_psds_of_two_classes_by_hand():
    second = score_spans(y=(0, 3, 0.9))
    both = {name: np.concatenate([SCORES[name], second[name]], 1) for name in SCORES}
    reference = {**REFERENCE, "y": events((0, 3, "b"))}
    scores = event_scores.score_frames(both, reference, ["a", "b"], **HOP)
    # Up to 30 an hour the ratios are 0.5 and 1: mean less standard deviation is 0.5.
    assert scores["psds1"]["psds"] == pytest.approx(0.3 * 0.5 + 0.7)
    assert scores["psds1"]["class_psds"] == {"a": pytest.approx(0.85), "b": pytest.approx(1)}
    # The false `a` lies on a `b`: in three seconds of it one cross trigger, whose half is 600 an hour. That ends at 0.1, where
    # whole recordings are detected: a `b` is too little of them, an `a` is enough, and two are false.
    assert scores["psds2"]["class_psds"] == {"a": pytest.approx(0.6 * 0.5 + 0.4), "b": pytest.approx(1)}
    assert scores["psds2"]["psds"] == pytest.approx(0.6 * 0.5 + 0.4)
    # Two classes at one threshold: at 0.7 three of four detections are right, of three events.
    assert scores["event"]["best"]["micro_f"] == pytest.approx(100 * 6 / 7)
    assert scores["event"]["best"]["macro_f"] == pytest.approx(90)


def test_class_without_reference_events():
    both = {name: np.concatenate([array, array], 1) for name, array in SCORES.items()}
    scores = event_scores.score_frames(both, REFERENCE, ["a", "b"], **HOP)
    assert scores["without_reference"] == ["b"]
    assert scores["psds1"]["class_psds"] == {"a": pytest.approx(0.85)} and scores["psds1"]["psds"] == pytest.approx(0.85)
    assert list(scores["event"]["best"]["class"]) == ["a"]
    # At the threshold its false events count, and its F is 0.
    assert scores["event"]["class_f"] == {"a": pytest.approx(200 / 3), "b": 0}
    assert scores["event"]["micro_f"] == pytest.approx(100 * 4 / (2 + 8))


def test_no_reference_events():
    scores = event_scores.score_frames(SCORES, dict.fromkeys("wxyz", ()), ["a"], **HOP)
    assert scores["psds1"] is None and scores["psds2"] is None
    assert scores["segment"]["best"] is None and scores["event"]["best"] is None
    assert scores["segment"]["average_precision"] is None
    assert scores["event"]["n_estimated"] == 4 and scores["event"]["error_rate"] is None
    assert "40.00" not in print_to_text(scores) and "estimated" in print_to_text(scores)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_constant_scores(value):
    constant = {name: np.full((30, 1), value, np.float32) for name in "wxyz"}
    reference = {**REFERENCE, "w": events((0, 30, "a"))}
    scores = event_scores.score_frames(constant, reference, ["a"], **HOP)
    # The one threshold detects four events: one right, and three false ones, which are 90 per hour.
    assert scores["psds1"]["psds"] == pytest.approx(0.5 * 0.1)
    assert scores["event"]["best"]["class"]["a"] == {
        "f": pytest.approx(100 * 2 / (2 + 4)), "precision": 25, "recall": 50, "threshold": pytest.approx(value)
    }  # fmt: skip
    assert scores["event"]["n_estimated"] == 4 * (value >= 0.5)


def test_useless_scores_have_no_best_threshold():
    wrong = score_spans(y=(0, 3, 0.8))
    reference = {**REFERENCE, "w": events((20.4, 20.8, "a")), "x": []}
    best = event_scores.score_frames(wrong, reference, ["a"], kinds=("event",), **HOP)["event"]["best"]
    assert best["class"]["a"] == {"f": 0, "precision": 100, "recall": 0, "threshold": None}
    assert best["micro_f"] == 0 and best["threshold"] is None


def test_overlapping_events_are_merged_over_thresholds():
    overlapping = {**REFERENCE, "w": events((5, 8, "a"), (8, 9, "a"), (7, 10, "a"))}
    scores = event_scores.score_frames(SCORES, overlapping, ["a"], **HOP)
    merged = event_scores.score_frames(SCORES, REFERENCE, ["a"], **HOP)
    for name in ("psds1", "psds2"):
        assert scores[name] == merged[name]
    assert scores["event"]["best"] == merged["event"]["best"] and scores["segment"] == merged["segment"]
    assert (scores["event"]["n_reference"], merged["event"]["n_reference"]) == (4, 2)


def test_events_after_the_end_are_left_out(capsys):
    late = {**REFERENCE, "w": events((5, 10, "a"), (27, 33, "a")), "x": events((5, 10, "a"), (30, 31, "a"))}
    cut = {**REFERENCE, "w": events((5, 10, "a"), (27, 30, "a"))}
    scores = event_scores.score_frames(SCORES, late, ["a"], **HOP)
    assert "start after the end of their recordings are left out: 1" in capsys.readouterr().err
    assert scores == event_scores.score_frames(SCORES, cut, ["a"], **HOP)
    assert scores["event"]["n_reference"] == 3 and scores["segment"]["n_reference"] == 13


def test_zero_length_event_lasts_a_frame():
    spot = score_spans(w=(6, 7, 0.9))
    scores = event_scores.score_frames(spot, {**REFERENCE, "w": events((6.25, 6.25, "a")), "x": []}, ["a"], **HOP)
    assert scores["psds1"]["psds"] == 1 and scores["segment"]["best"]["micro_f"] == 100
    # A detection in another frame does not match it.
    elsewhere = event_scores.score_frames(spot, {**REFERENCE, "w": events((7, 7, "a")), "x": []}, ["a"], **HOP)
    assert elsewhere["psds1"]["psds"] == 0


def test_last_frame_ends_with_the_recording():
    scores = {"x": np.array([[0.1], [0.1], [0.9]], np.float32)}
    result = event_scores.score_frames(
        scores,
        {"x": events((2.0, 2.25, "a"))},
        ["a"],
        hop_s=1.0,
        durations_s={"x": 2.25},
        tolerances=Tolerances(offset_share=0.0),
    )
    assert result["event"]["micro_f"] == result["event"]["best"]["micro_f"] == 100


def test_detected_events_replace_the_threshold():
    detected = {"w": (DetectedEvent(5.0, 10.0, "a", 0.9),), "x": (DetectedEvent(6.0, 10.0, "a", 0.7),)}
    scores = event_scores.score_frames(SCORES, REFERENCE, ["a"], detected=detected, **HOP)
    listed = event_list_scores.score_event_lists(REFERENCE, {**detected, "y": (), "z": ()})
    for kind in ("segment", "event"):
        assert {key: scores[kind][key] for key in listed[kind]} == listed[kind]
    assert scores["event"]["micro_f"] == 50
    assert scores["psds1"]["psds"] == pytest.approx(0.85)


def test_unusual_names_of_classes_and_recordings():
    labels = ["onset", "macro_average", "a\\b"]
    odd = {f"{name}/.wav": np.repeat(array, 3, 1) for name, array in SCORES.items()}
    reference = {
        f"{name}/.wav": [Event(e.onset_s, e.offset_s, label) for e in rows for label in labels]
        for name, rows in REFERENCE.items()
    }
    about = {"hop_s": 1.0, "durations_s": dict.fromkeys(odd, 30.0)}
    scores = event_scores.score_frames(odd, reference, labels, **about)
    assert scores["psds1"]["class_psds"] == dict.fromkeys(labels, pytest.approx(0.85))
    assert json.loads(json.dumps(scores, allow_nan=False))["event"]["best"]["micro_f"] == pytest.approx(80)
    text = print_to_text(scores)
    assert "PSDS1: 0.8500" in text and "0.70" in text and "a\\b" in text


def test_labels_of_the_reference_may_have_another_spelling():
    """A model of an older version may have classes in any Unicode form; lists are read in composed letters."""
    composed, decomposed = "h\u00fcndin", "hu\u0308ndin"
    expected = event_scores.score_frames(SCORES, REFERENCE, ("a",), kinds=("event",), **HOP)
    reference = {name: [*events(*((e.onset_s, e.offset_s, composed) for e in rows))] for name, rows in REFERENCE.items()}
    scores = event_scores.score_frames(SCORES, reference, (decomposed,), kinds=("event",), **HOP)
    assert scores["event"]["class_f"] == {decomposed: expected["event"]["class_f"]["a"]} and expected["event"]["micro_f"] > 0


def test_invalid_frame_scores_are_refused():
    def score(scores=SCORES, reference=REFERENCE, labels=("a",), **changes):
        return event_scores.score_frames(scores, reference, labels, **{**HOP, **changes})

    with pytest.raises(InputError, match="no recording"):
        score({}, {})
    with pytest.raises(InputError, match="the recording 'z' of the reference has no scores"):
        score({name: SCORES[name] for name in "wxy"})
    with pytest.raises(InputError, match="'v' is not in the reference"):
        score({**SCORES, "v": SCORES["w"]}, durations_s=dict.fromkeys("vwxyz", 30.0))
    with pytest.raises(InputError, match="has events of 'b', which has no scores"):
        score(reference={**REFERENCE, "y": events((0, 1, "b"))})
    with pytest.raises(ValueError, match="'clip' is not a kind of score"):
        score(kinds=("clip",))
    with pytest.raises(ValueError, match=r"w: scores must be \[frames, 2\], not \(30, 1\)"):
        score(labels=("a", "b"))
    with pytest.raises(ValueError, match="x: a score is NaN"):
        score({**SCORES, "x": np.full((30, 1), np.nan)})
    with pytest.raises(ValueError, match=r"w: 30 frames of 0\.5 s do not last 30\.0 s"):
        score(hop_s=0.5)
    with pytest.raises(ValueError, match="detected in 'v', which has no scores"):
        score(detected={"v": ()})
