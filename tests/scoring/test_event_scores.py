"""Tests of the scores of event detection: by hand, against figures of public systems, and against sed_scores_eval itself."""

import io
import json
import sys

import numpy as np
import pytest
import rich.console

from mfl_jax.data import event_list
from mfl_jax.data.annotation import Event
from mfl_jax.errors import InputError
from mfl_jax.inference.prediction import DetectedEvent
from mfl_jax.scoring import event_scores, threshold_sweep

pytest.importorskip("sed_scores_eval")


@pytest.fixture(scope="module")
def packages():
    return threshold_sweep.packages()


def events(*rows):
    return [Event(*row) for row in rows]


# Lists.

REFERENCE = {"x": events((0, 2, "car"), (3, 4, "dog"))}
ESTIMATED = {"x": events((0.1, 2.1, "car"), (3.3, 4, "dog"), (5, 6, "cat"))}


def test_events_and_segments_counted_by_hand():
    scores = event_scores.score_lists(REFERENCE, ESTIMATED)
    # The car is right, the dog starts 300 ms late, and there is no cat.
    assert scores["event"] == {
        "micro_f": pytest.approx(40), "macro_f": 50, "precision": pytest.approx(100 / 3), "recall": 50,
        "error_rate": 1.5, "substitution_rate": 0, "deletion_rate": 0.5, "insertion_rate": 1,
        "class_f": {"car": 100, "dog": 0}, "n_reference": 2, "n_estimated": 3,
        "class_n_reference": {"car": 1, "dog": 1}, "class_n_estimated": {"car": 1, "dog": 1},
    }  # fmt: skip
    # Active are car, car, -, dog, -, - and car, car, car, dog, -, cat.
    assert scores["segment"] == {
        "micro_f": 75, "macro_f": 90, "precision": 60, "recall": 100,
        "error_rate": pytest.approx(2 / 3), "substitution_rate": 0, "deletion_rate": 0, "insertion_rate": pytest.approx(2 / 3),
        "class_f": {"car": 80, "dog": 100}, "n_reference": 3, "n_estimated": 5,
        "class_n_reference": {"car": 2, "dog": 1}, "class_n_estimated": {"car": 3, "dog": 1},
    }  # fmt: skip


def test_a_false_and_a_missed_event_at_one_time_are_a_substitution():
    scores = event_scores.score_lists({"x": events((0, 1, "car"))}, {"x": events((0, 1, "dog"))})
    for kind in ("segment", "event"):
        assert scores[kind]["error_rate"] == scores[kind]["substitution_rate"] == 1
        assert scores[kind]["deletion_rate"] == scores[kind]["insertion_rate"] == scores[kind]["micro_f"] == 0


@pytest.mark.parametrize(
    "onset_s, offset_s, settings, hit",
    [
        (0.0, 5.5, {}, True),  # half of four seconds
        (0.0, 5.5, {"offset_share": 0.2}, False),
        (0.0, 5.5, {"offset_share": 0.0, "offset_collar_s": 1.6}, True),
        (0.0, 5.5, {"offset_share": 0.0, "onset_collar_s": 1.6}, False),
        (1.5, 4.0, {"offset_collar_s": 1.6}, False),
        (1.5, 4.0, {"onset_collar_s": 1.6}, True),
    ],
)
def test_onsets_and_offsets_have_collars_of_their_own(onset_s, offset_s, settings, hit):
    scores = event_scores.score_lists({"x": events((0, 4, "car"))}, {"x": events((onset_s, offset_s, "car"))}, **settings)
    assert scores["event"]["micro_f"] == 100 * hit


def test_length_of_segments():
    scores = event_scores.score_lists({"x": events((0, 1, "car"))}, {"x": events((0, 1.5, "car"))}, segment_s=0.5)
    assert scores["segment"]["micro_f"] == pytest.approx(100 * 2 * 2 / (2 + 3))


def test_times_are_compared_as_they_are():
    assert event_scores.score_lists({"x": events((2, 3, "car"))}, {"x": events((2.2, 3, "car"))})["event"]["micro_f"] == 0
    assert event_scores.score_lists({"x": events((1, 3, "car"))}, {"x": events((1.2, 3, "car"))})["event"]["micro_f"] == 100


def test_a_class_without_anything_counts_0(packages):
    reference, estimated = {"x": events((0, 1, "car"), (0, 1, "dog"))}, {"x": events((0, 1, "car"))}
    assert event_scores.score_lists(reference, estimated)["event"]["macro_f"] == 50
    # sed_eval leaves the dog out.
    sed_eval, _ = packages
    theirs = sed_eval.sound_event.EventBasedMetrics(["car", "dog"])
    rows = [{"onset": 0.0, "offset": 1.0, "event_label": label} for label in ("car", "dog")]
    assert theirs.evaluate(rows, rows[:1]).results_class_wise_average_metrics()["f_measure"]["f_measure"] == 1
    scores = event_scores.score_lists(reference, estimated, labels=["car", "dog", "cat", "None"])
    for kind in ("segment", "event"):
        assert scores[kind]["macro_f"] == 25
        assert scores[kind]["class_f"] == {"car": 100, "dog": 0, "cat": 0, "None": 0}


def test_nothing_anywhere():
    scores = event_scores.score_lists({"x": []}, {"x": []})
    for kind in ("segment", "event"):
        assert scores[kind]["micro_f"] == scores[kind]["macro_f"] == scores[kind]["n_reference"] == 0
        assert scores[kind]["error_rate"] is None and scores[kind]["deletion_rate"] is None
    false = event_scores.score_lists({"x": []}, {"x": events((0, 1, "car"))})["event"]
    assert (false["n_estimated"], false["micro_f"], false["error_rate"]) == (1, 0, None)


def test_labels_that_dcase_util_takes_for_none(capsys):
    scores = event_scores.score_lists({"x": events((0, 1, "None"))}, {"x": events((0, 1, "None"))})
    assert scores["event"]["class_f"] == {"None": 100}
    assert capsys.readouterr().err == ""


def test_labels_to_score(capsys):
    scores = event_scores.score_lists(REFERENCE, ESTIMATED, labels=["car"])
    assert scores["event"]["micro_f"] == scores["event"]["macro_f"] == 100
    assert scores["event"]["n_estimated"] == 1
    assert capsys.readouterr().err.endswith("among those to score: cat, dog\n")


def test_the_reference_says_which_recordings_there_are(capsys):
    reference = {"a/x.wav": REFERENCE["x"], "a/y.wav": events((0, 2, "car"))}
    scores = event_scores.score_lists(reference, {"x": ESTIMATED["x"]})
    assert scores["event"]["n_reference"] == 3 and scores["event"]["micro_f"] == pytest.approx(100 / 3)
    assert "1 of 2 recordings of the reference are not in the estimate, a/y.wav for one" in capsys.readouterr().err
    with pytest.raises(InputError, match="'z' is not in the reference"):
        event_scores.score_lists(reference, {"z": []})
    with pytest.raises(InputError, match="no recording"):
        event_scores.score_lists({}, {})


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"segment_s": 0.0}, "segment_s is 0.0; it is a number of seconds above 0"),
        ({"onset_collar_s": -0.2}, "onset_collar_s is -0.2"),
        ({"offset_collar_s": float("nan")}, "offset_collar_s is nan"),
        ({"offset_share": 1.5}, "offset_share is 1.5; it is a share from 0 to 1"),
    ],
)
def test_settings_that_make_no_sense(setting, message):
    with pytest.raises(InputError, match=message):
        event_scores.score_lists(REFERENCE, ESTIMATED, **setting)


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "sed_eval", None)
    with pytest.raises(InputError, match=r"^sed_eval is missing: pip install -e '\.\[eval\]'"):
        event_scores.score_lists(REFERENCE, ESTIMATED)


# Files.


def test_files_against_each_other(tmp_path, capsys):
    (tmp_path / "truth.txt").write_text("0\t2\tcar\n3\t4\tdog\n")
    (tmp_path / "system.tsv").write_text("filename\tonset\toffset\tevent_label\nx.wav\t0.1\t2.1\tcar\n")
    scores = event_scores.evaluate_lists(tmp_path / "truth.txt", tmp_path / "system.tsv", offset_share=0.2)
    assert scores["event"]["micro_f"] == pytest.approx(200 / 3)
    assert scores["recordings"] == 1 and scores["reference"].endswith("truth.txt")
    assert scores["settings"] == {
        "labels": None, "segment_s": 1.0, "onset_collar_s": 0.2, "offset_collar_s": 0.2, "offset_share": 0.2
    }  # fmt: skip
    json.dumps(scores, allow_nan=False)
    assert capsys.readouterr().err == ""


def test_a_system_that_detected_nothing_writes_an_empty_file(tmp_path, capsys):
    (tmp_path / "truth.tsv").write_text("x\t0\t2\tcar\ny\t0\t2\tcar\n")
    (tmp_path / "system.tsv").write_text("")
    scores = event_scores.evaluate_lists(tmp_path / "truth.tsv", tmp_path / "system.tsv")
    assert scores["event"]["n_estimated"] == 0 and scores["event"]["deletion_rate"] == 1
    assert "2 of 2 recordings" in capsys.readouterr().err
    (tmp_path / "system.tsv").write_text("0\t2\tcar\n")
    with pytest.raises(InputError, match=r"system\.tsv against .*truth\.tsv: .* 'system' is not in the reference"):
        event_scores.evaluate_lists(tmp_path / "truth.tsv", tmp_path / "system.tsv")


def printed(scores):
    out = io.StringIO()
    event_scores.print_scores(scores, rich.console.Console(file=out, width=120))
    return out.getvalue()


def test_printed_lists():
    scores = event_scores.score_lists({"x": events((0, 2, "[red]car"))}, {"x": events((0.1, 2.1, "[red]car"))})
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed(scores).splitlines()]
    assert ["micro F, %", "80.00", "100.00"] in rows
    assert ["[red]car", "80.00", "100.00", "1", "1"] in rows


# Public systems.

DESED = {
    # micro F, macro F, error rate, of events and of segments
    "teacher": ((42.35, 42.14, 1.01), (77.03, 71.57, 0.36)),
    "student": ((40.95, 39.87, 1.03), (75.47, 69.35, 0.38)),
}


@pytest.mark.parametrize("system", DESED)
def test_desed_systems(shared_dir, system):
    folder = shared_dir / "golden" / "event_metrics" / "desed_task_psds_eval"
    estimated = folder / "metrics_test" / system / "predictions0.5.csv"
    scores = event_scores.evaluate_lists(folder / "validation.tsv", estimated, offset_share=0.2)
    for kind, expected in zip(("event", "segment"), DESED[system], strict=True):
        assert tuple(round(scores[kind][key], 2) for key in ("micro_f", "macro_f", "error_rate")) == expected
    if system == "teacher":  # every class as its report has it
        report = (folder / "metrics_test" / system / "event_f1.txt").read_text().split("Class-wise metrics")[1]
        of_class = [line.split("|") for line in report.splitlines() if "%" in line]
        assert len(of_class) == len(scores["event"]["class_f"]) == 10
        for name, counts, f, _ in (cells[:4] for cells in of_class):
            label = next(label for label in scores["event"]["class_f"] if label.startswith(name.strip().rstrip(".")))
            assert counts.split() == [str(scores["event"][key][label]) for key in ("class_n_reference", "class_n_estimated")]
            assert f.split()[0] == f"{scores['event']['class_f'][label]:.1f}%"


SED_EVAL = {
    "street_fold1": ("street_fold1_reference.txt", "street_fold1_detected.txt"),
    "office_snr0_high_v2": ("office_snr0_high_v2.txt", "office_snr0_high_v2_detected.txt"),
    "office_snr0_med_v2": ("office_snr0_med_v2.txt", "office_snr0_med_v2_detected.txt"),
    "audioset1": ("audioset1.txt", "audioset1_detected.txt"),
    "mini": ("mini_reference.txt", "mini_detected_a.txt"),
    "binary1": ("binary1.txt", "binary1_detected.txt"),
    "binary5": ("binary5.txt", "binary5_detected.txt"),
}


@pytest.mark.parametrize("name", SED_EVAL)
def test_files_of_sed_eval(shared_dir, name):
    golden = shared_dir / "golden" / "event_metrics"
    expected = json.loads((golden / "expected.json").read_text())["sed_eval_tests"][name]
    folder = golden / "sed_eval" / "tests" / "data" / "sound_event"
    reference, estimated = SED_EVAL[name]
    scores = event_scores.evaluate_lists(folder / reference, folder / estimated)
    for kind, of_kind in (("segment", "segment_1s_overall"), ("event", "event_200ms_50pct_overall")):
        for key, value in expected[of_kind]["f_measure"].items():
            assert scores[kind]["micro_f" if key == "f_measure" else key] == pytest.approx(100 * value, abs=1e-7)
        for key, value in expected[of_kind]["error_rate"].items():
            assert scores[kind][key] == pytest.approx(value, abs=1e-9)


def test_the_order_of_events_does_not_matter(shared_dir):
    folder = shared_dir / "golden" / "event_metrics" / "sed_eval" / "tests" / "data" / "sound_event"
    for estimated in ("mini_detected_a.txt", "mini_detected_b.txt"):
        # 1.25 s and 1.75 s may both be the event at 1.5 s, but 1.75 s is not that at 1 s.
        scores = event_scores.evaluate_lists(folder / "mini_reference.txt", folder / estimated, onset_collar_s=0.25)
        assert scores["event"]["micro_f"] == 100


# Frame scores. A frame lasts a second, and four recordings two minutes, so that a false positive is 30 an hour.

HOP = {"hop_s": 1.0, "durations_s": dict.fromkeys("wxyz", 30.0)}


def scored(**spans):
    """recording -> scores of one class, 0.1 but for the spans (first, last, score)."""
    scores = {name: np.full((30, 1), 0.1, np.float32) for name in "wxyz"}
    for name, (first, last, score) in spans.items():
        scores[name][first:last] = score
    return scores


ONE = scored(w=(5, 10, 0.9), x=(5, 10, 0.7), y=(0, 3, 0.8), z=(0, 3, 0.6))
ONE_REFERENCE = {"w": events((5, 10, "a")), "x": events((5, 10, "a")), "y": [], "z": []}


def test_psds_of_one_class_by_hand():
    scores = event_scores.score_frames(ONE, ONE_REFERENCE, ["a"], **HOP)
    # One of two events at no false positive, both at 30 an hour and above; at 60 nothing is gained.
    for name in ("psds1", "psds2"):
        assert scores[name]["psds"] == scores[name]["class_psds"]["a"] == pytest.approx(0.3 * 0.5 + 0.7)
        curve = dict(zip(scores[name]["false_per_hour"], scores[name]["tp_ratio"], strict=True))
        assert (curve[0], curve[29], curve[30], curve[100]) == (0.5, 0.5, 1, 1)
        assert scores[name]["class_tp_ratio"]["a"] == scores[name]["tp_ratio"]
    assert scores["recordings"] == 4 and scores["hours"] == pytest.approx(1 / 30) and scores["thresholds"] == "all"


def test_best_thresholds_by_hand():
    scores = event_scores.score_frames(ONE, ONE_REFERENCE, ["a"], kinds=("segment", "event"), **HOP)
    assert sorted(scores) == ["event", "hours", "recordings", "segment", "thresholds", "without_reference"]
    # At 0.7: two events and one false one; ten segments and three false ones.
    for kind, f, precision in (("event", 80, 200 / 3), ("segment", 2000 / 23, 1000 / 13)):
        best = scores[kind]["best"]
        of_class = {"f": pytest.approx(f), "precision": pytest.approx(precision), "recall": 100, "threshold": np.float32(0.7)}
        assert best == {
            "micro_f": pytest.approx(f), "macro_f": pytest.approx(f), "threshold": np.float32(0.7), "class": {"a": of_class},
        }  # fmt: skip
    assert scores["segment"]["average_precision"]["class"] == {"a": pytest.approx(0.5 + 0.5 * 10 / 13)}
    # At 0.5: two more.
    assert scores["event"]["micro_f"] == pytest.approx(100 * 4 / (2 + 4))
    assert scores["segment"]["micro_f"] == pytest.approx(100 * 20 / (10 + 16))


def test_psds_of_two_classes_by_hand():
    second = scored(y=(0, 3, 0.9))
    both = {name: np.concatenate([ONE[name], second[name]], 1) for name in ONE}
    reference = {**ONE_REFERENCE, "y": events((0, 3, "b"))}
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


def random_scores(*, recordings=10, frames=200, labels=("a", "b", "c"), hop_s=0.2, seed=0):
    """Frame scores that rise where a reference event is; events of one label do not touch, and lie on no edge of a frame."""
    rng = np.random.default_rng(seed)
    scores, reference = {}, {}
    for name in map(str, range(recordings)):
        logits = rng.normal(-2, 0.9, (frames, len(labels)))
        reference[name] = []
        for column, label in enumerate(labels):
            times = np.sort(rng.uniform(0, frames * hop_s, 4)).round(4)
            for onset, offset in times.reshape(2, 2).tolist():
                logits[int(onset / hop_s) : int(offset / hop_s) + 1, column] += rng.uniform(1, 5)
                reference[name].append(Event(onset, offset, label))
        scores[name] = (1 / (1 + np.exp(-logits))).astype(np.float32)
    return scores, reference, list(labels), {"hop_s": hop_s, "durations_s": dict.fromkeys(scores, frames * hop_s)}


def test_against_sed_scores_eval(packages):
    _, sed_scores_eval = packages
    scores, reference, labels, about = random_scores()
    ours = event_scores.score_frames(scores, reference, labels, **about)
    edges = np.round(np.arange(201) * 0.2, 6)
    create = sed_scores_eval.base_modules.scores.create_score_dataframe
    frames = {name: create(array.astype(float), edges, labels) for name, array in scores.items()}
    truth = {name: [(event.onset_s, event.offset_s, event.label) for event in rows] for name, rows in reference.items()}
    durations = about["durations_s"]
    for name, scenario in event_scores.PSDS.items():
        area, of_class, _, _ = sed_scores_eval.intersection_based.psds(frames, truth, durations, max_efpr=100, **scenario)
        assert ours[name]["psds"] == pytest.approx(area, abs=1e-12) and 0 < area < 1
        assert ours[name]["class_psds"] == pytest.approx(of_class, abs=1e-12)
    collars = {"onset_collar": 0.2, "offset_collar": 0.2, "offset_collar_rate": 0.5}
    best = {
        "segment": sed_scores_eval.segment_based.best_fscore(frames, truth, durations),
        "event": sed_scores_eval.collar_based.best_fscore(frames, truth, **collars),
    }
    at_half = {
        "segment": sed_scores_eval.segment_based.fscore(frames, truth, durations, 0.5, segment_length=1.0),
        "event": sed_scores_eval.collar_based.fscore(frames, truth, 0.5, **collars),
    }
    for kind in ("segment", "event"):
        f = {label: ours[kind]["best"]["class"][label]["f"] / 100 for label in labels}
        assert {**f, "macro_average": ours[kind]["best"]["macro_f"] / 100} == pytest.approx(
            {key: value for key, value in best[kind][0].items() if key != "micro_average"}
        )
        # sed_eval on the events above the threshold.
        assert ours[kind]["micro_f"] == pytest.approx(100 * at_half[kind][0]["micro_average"])
        assert ours[kind]["macro_f"] == pytest.approx(100 * at_half[kind][0]["macro_average"])
    average, _ = sed_scores_eval.segment_based.average_precision(frames, truth, durations, segment_length=1.0)
    assert ours["segment"]["average_precision"]["mean"] == pytest.approx(average["mean"])


@pytest.mark.parametrize("kind", ["segment", "event"])
def test_the_best_threshold_gives_the_best_f(kind):
    scores, reference, labels, about = random_scores(seed=1)
    best = event_scores.score_frames(scores, reference, labels, kinds=(kind,), **about)[kind]["best"]
    at_best = event_scores.score_frames(scores, reference, labels, kinds=(kind,), threshold=best["threshold"], **about)
    assert at_best[kind]["micro_f"] == pytest.approx(best["micro_f"])
    for label, of_class in best["class"].items():
        at_best = event_scores.score_frames(scores, reference, labels, kinds=(kind,), threshold=of_class["threshold"], **about)
        assert at_best[kind]["class_f"][label] == pytest.approx(of_class["f"])


def test_thresholds_in_blocks(monkeypatch):
    scores, reference, labels, about = random_scores(recordings=2, frames=60)
    whole = event_scores.score_frames(scores, reference, labels, **about)
    monkeypatch.setattr(threshold_sweep, "BLOCK", 50)
    assert event_scores.score_frames(scores, reference, labels, **about) == whole


def test_long_recordings_have_fewer_thresholds(monkeypatch):
    scores, reference, labels, about = random_scores(frames=300)
    exact = event_scores.score_frames(scores, reference, labels, **about)
    monkeypatch.setattr(threshold_sweep, "EXACT_FRAMES", 299)
    monkeypatch.setattr(threshold_sweep, "ALL_HIGHEST", 10)
    sampled = event_scores.score_frames(scores, reference, labels, **about)
    assert (exact["thresholds"], sampled["thresholds"]) == ("all", "sampled")
    assert sampled["segment"] == exact["segment"]
    for name in ("psds1", "psds2"):
        loss = np.array([exact[name]["class_psds"][label] - sampled[name]["class_psds"][label] for label in labels])
        assert (loss >= -1e-12).all() and loss.max() > 0
        assert sampled[name]["psds"] == pytest.approx(exact[name]["psds"], abs=0.05)
    for label in labels:
        lost = exact["event"]["best"]["class"][label]["f"] - sampled["event"]["best"]["class"][label]["f"]
        assert -1e-9 <= lost < 10


def test_sampled_scores_keep_what_is_above_each_of_them():
    scores = {"x": np.random.default_rng(0).random((5000, 1))}
    lower = threshold_sweep._sampled(scores)["x"]
    levels = np.unique(lower)
    assert 150 < len(levels) < 320
    assert np.array_equal(levels[-100:], np.sort(scores["x"], axis=0)[-100:, 0])
    for level in levels[::20]:
        assert np.array_equal(lower >= level, scores["x"] >= level)


def test_a_class_without_reference_events():
    both = {name: np.concatenate([array, array], 1) for name, array in ONE.items()}
    scores = event_scores.score_frames(both, ONE_REFERENCE, ["a", "b"], **HOP)
    assert scores["without_reference"] == ["b"]
    assert scores["psds1"]["class_psds"] == {"a": pytest.approx(0.85)} and scores["psds1"]["psds"] == pytest.approx(0.85)
    assert list(scores["event"]["best"]["class"]) == ["a"]
    # At the threshold its false events count, and its F is 0.
    assert scores["event"]["class_f"] == {"a": pytest.approx(200 / 3), "b": 0}
    assert scores["event"]["micro_f"] == pytest.approx(100 * 4 / (2 + 8))


def test_no_reference_event_at_all():
    scores = event_scores.score_frames(ONE, dict.fromkeys("wxyz", ()), ["a"], **HOP)
    assert scores["psds1"] is None and scores["psds2"] is None
    assert scores["segment"]["best"] is None and scores["event"]["best"] is None
    assert scores["segment"]["average_precision"] is None
    assert scores["event"]["n_estimated"] == 4 and scores["event"]["error_rate"] is None
    assert "40.00" not in printed(scores) and "estimated" in printed(scores)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_constant_scores(value):
    constant = {name: np.full((30, 1), value, np.float32) for name in "wxyz"}
    reference = {**ONE_REFERENCE, "w": events((0, 30, "a"))}
    scores = event_scores.score_frames(constant, reference, ["a"], **HOP)
    # The one threshold detects four events, of which one is right, and three false ones are 90 an hour.
    assert scores["psds1"]["psds"] == pytest.approx(0.5 * 0.1)
    assert scores["event"]["best"]["class"]["a"] == {
        "f": pytest.approx(100 * 2 / (2 + 4)), "precision": 25, "recall": 50, "threshold": pytest.approx(value)
    }  # fmt: skip
    assert scores["event"]["n_estimated"] == 4 * (value >= 0.5)


def test_scores_that_find_nothing_have_no_best_threshold():
    wrong = scored(y=(0, 3, 0.8))
    reference = {**ONE_REFERENCE, "w": events((20.4, 20.8, "a")), "x": []}
    best = event_scores.score_frames(wrong, reference, ["a"], kinds=("event",), **HOP)["event"]["best"]
    assert best["class"]["a"] == {"f": 0, "precision": 100, "recall": 0, "threshold": None}
    assert best["micro_f"] == 0 and best["threshold"] is None


def test_overlapping_events_are_one_where_thresholds_vary():
    overlapping = {**ONE_REFERENCE, "w": events((5, 8, "a"), (8, 9, "a"), (7, 10, "a"))}
    scores = event_scores.score_frames(ONE, overlapping, ["a"], **HOP)
    merged = event_scores.score_frames(ONE, ONE_REFERENCE, ["a"], **HOP)
    for name in ("psds1", "psds2"):
        assert scores[name] == merged[name]
    assert scores["event"]["best"] == merged["event"]["best"] and scores["segment"] == merged["segment"]
    assert (scores["event"]["n_reference"], merged["event"]["n_reference"]) == (4, 2)


def test_events_past_the_end(capsys):
    late = {**ONE_REFERENCE, "w": events((5, 10, "a"), (27, 33, "a")), "x": events((5, 10, "a"), (30, 31, "a"))}
    cut = {**ONE_REFERENCE, "w": events((5, 10, "a"), (27, 30, "a"))}
    scores = event_scores.score_frames(ONE, late, ["a"], **HOP)
    assert "start past the end of their recordings are left out: 1" in capsys.readouterr().err
    assert scores == event_scores.score_frames(ONE, cut, ["a"], **HOP)
    assert scores["event"]["n_reference"] == 3 and scores["segment"]["n_reference"] == 13


def test_an_event_of_zero_length_lasts_a_frame():
    spot = scored(w=(6, 7, 0.9))
    scores = event_scores.score_frames(spot, {**ONE_REFERENCE, "w": events((6.25, 6.25, "a")), "x": []}, ["a"], **HOP)
    assert scores["psds1"]["psds"] == 1 and scores["segment"]["best"]["micro_f"] == 100
    # Nothing but its own frame finds it, and no threshold finds it for nothing.
    elsewhere = event_scores.score_frames(spot, {**ONE_REFERENCE, "w": events((7, 7, "a")), "x": []}, ["a"], **HOP)
    assert elsewhere["psds1"]["psds"] == 0
    assert threshold_sweep._apart(events((29.9999999, 30, "a"), (0.14, 0.14, "b")), 0.02, 30.0) == [
        (29.98, 30, "a"),
        (0.14, 0.16, "b"),
    ]


def test_the_last_frame_ends_with_the_recording():
    scores = {"x": np.array([[0.1], [0.1], [0.9]], np.float32)}
    result = event_scores.score_frames(
        scores, {"x": events((2.0, 2.25, "a"))}, ["a"], hop_s=1.0, durations_s={"x": 2.25}, offset_share=0.0
    )
    assert result["event"]["micro_f"] == result["event"]["best"]["micro_f"] == 100


def test_detected_events_instead_of_a_threshold():
    detected = {"w": (DetectedEvent(5.0, 10.0, "a", 0.9),), "x": (DetectedEvent(6.0, 10.0, "a", 0.7),)}
    scores = event_scores.score_frames(ONE, ONE_REFERENCE, ["a"], detected=detected, **HOP)
    listed = event_scores.score_lists(ONE_REFERENCE, {**detected, "y": (), "z": ()})
    for kind in ("segment", "event"):
        assert {key: scores[kind][key] for key in listed[kind]} == listed[kind]
    assert scores["event"]["micro_f"] == 50
    assert scores["psds1"]["psds"] == pytest.approx(0.85)


def test_names_of_classes_and_recordings_are_free():
    labels = ["onset", "macro_average", "a\\b"]
    odd = {f"{name}/.wav": np.repeat(array, 3, 1) for name, array in ONE.items()}
    reference = {
        f"{name}/.wav": [Event(e.onset_s, e.offset_s, label) for e in rows for label in labels]
        for name, rows in ONE_REFERENCE.items()
    }
    about = {"hop_s": 1.0, "durations_s": dict.fromkeys(odd, 30.0)}
    scores = event_scores.score_frames(odd, reference, labels, **about)
    assert scores["psds1"]["class_psds"] == dict.fromkeys(labels, pytest.approx(0.85))
    assert json.loads(json.dumps(scores, allow_nan=False))["event"]["best"]["micro_f"] == pytest.approx(80)
    text = printed(scores)
    assert "PSDS1: 0.8500" in text and "0.70" in text and "a\\b" in text


def test_what_frames_cannot_be_scored():
    def score(scores=ONE, reference=ONE_REFERENCE, labels=("a",), **changes):
        return event_scores.score_frames(scores, reference, labels, **{**HOP, **changes})

    with pytest.raises(InputError, match="no recording"):
        score({}, {})
    with pytest.raises(InputError, match="the recording 'z' of the reference has no scores"):
        score({name: ONE[name] for name in "wxy"})
    with pytest.raises(InputError, match="'v' is not in the reference"):
        score({**ONE, "v": ONE["w"]}, durations_s=dict.fromkeys("vwxyz", 30.0))
    with pytest.raises(InputError, match="holds events of 'b', of which there are no scores"):
        score(reference={**ONE_REFERENCE, "y": events((0, 1, "b"))})
    with pytest.raises(ValueError, match="'clip' is no kind of score"):
        score(kinds=("clip",))
    with pytest.raises(ValueError, match=r"w: scores are \[frames, 2\], not \(30, 1\)"):
        score(labels=("a", "b"))
    with pytest.raises(ValueError, match="x: a score is NaN"):
        score({**ONE, "x": np.full((30, 1), np.nan)})
    with pytest.raises(ValueError, match=r"w: 30 frames of 0\.5 s do not make 30\.0 s"):
        score(hop_s=0.5)
    with pytest.raises(ValueError, match="detected in 'v', of which there are no scores"):
        score(detected={"v": ()})


def test_both_packages_on_a_public_system(shared_dir, packages):
    _, sed_scores_eval = packages
    folder = shared_dir / "golden" / "event_metrics" / "desed_task_psds_eval"
    reference = event_list.read_event_list(folder / "validation.tsv")
    estimated = event_list.read_event_list(folder / "metrics_test" / "teacher" / "predictions0.5.csv")
    estimated = {name: estimated.get(name, []) for name in reference}
    labels = sorted({event.label for rows in reference.values() for event in rows})
    frames, truth, ends = {}, {}, {}
    for name, rows in reference.items():
        times = [time for event in estimated[name] for time in (event.onset_s, event.offset_s)]
        ends[name] = max([10.0, *times, *(event.offset_s for event in rows)])
        edges = np.unique([0.0, ends[name], *times])
        active = np.zeros((len(edges) - 1, len(labels)))
        for event in estimated[name]:
            active[(edges[:-1] >= event.onset_s) & (edges[:-1] < event.offset_s), labels.index(event.label)] = 1
        frames[name] = sed_scores_eval.base_modules.scores.create_score_dataframe(active, edges, labels)
        truth[name] = [(event.onset_s, event.offset_s, event.label) for event in rows]
    ours = event_scores.score_lists(reference, estimated, offset_share=0.2)
    f, *_ = sed_scores_eval.segment_based.fscore(frames, truth, ends, 0.5, segment_length=1.0)
    assert ours["segment"]["class_f"] == pytest.approx({label: 100 * f[label] for label in labels})
    assert ours["segment"]["micro_f"] == pytest.approx(100 * f["micro_average"])
    # A hit or two more, since times are rounded before they are compared.
    f, *_, counts = sed_scores_eval.collar_based.fscore(
        frames, truth, 0.5, onset_collar=0.2, offset_collar=0.2, offset_collar_rate=0.2
    )
    n = ours["event"]["n_reference"] + ours["event"]["n_estimated"]
    hits = sum(of_class["tps"] for of_class in counts.values())
    assert hits - round(ours["event"]["micro_f"] * n / 200) == 1
    assert ours["event"]["macro_f"] == pytest.approx(100 * f["macro_average"], abs=0.03)
