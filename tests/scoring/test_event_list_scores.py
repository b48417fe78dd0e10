"""Scores of event lists: by hand, against sed_eval, and against published figures of public systems."""

import json
import sys

import numpy as np
import pytest

from mfl_jax.errors import InputError
from mfl_jax.scoring import event_list_scores
from mfl_jax.scoring.eval_packages import import_eval_packages
from mfl_jax.scoring.event_list_scores import Tolerances
from support.event_examples import events

pytest.importorskip("sed_scores_eval")

REFERENCE = {"x": events((0, 2, "car"), (3, 4, "dog"))}
ESTIMATED = {"x": events((0.1, 2.1, "car"), (3.3, 4, "dog"), (5, 6, "cat"))}

DESED = {
    "teacher": ((42.35, 42.14, 1.01), (77.03, 71.57, 0.36)),
    "student": ((40.95, 39.87, 1.03), (75.47, 69.35, 0.38)),
}
"""System -> (micro F, macro F, error rate) of events, and of segments."""

SED_EVAL = {
    "street_fold1": ("street_fold1_reference.txt", "street_fold1_detected.txt"),
    "office_snr0_high_v2": ("office_snr0_high_v2.txt", "office_snr0_high_v2_detected.txt"),
    "office_snr0_med_v2": ("office_snr0_med_v2.txt", "office_snr0_med_v2_detected.txt"),
    "audioset1": ("audioset1.txt", "audioset1_detected.txt"),
    "mini": ("mini_reference.txt", "mini_detected_a.txt"),
    "binary1": ("binary1.txt", "binary1_detected.txt"),
    "binary5": ("binary5.txt", "binary5_detected.txt"),
}
"""Test case of sed_eval -> its files of reference and estimate."""


def test_events_and_segments_by_hand():
    scores = event_list_scores.score_event_lists(REFERENCE, ESTIMATED)
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


def test_simultaneous_false_and_missed_events_are_a_substitution():
    scores = event_list_scores.score_event_lists({"x": events((0, 1, "car"))}, {"x": events((0, 1, "dog"))})
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
def test_onset_and_offset_collars(onset_s, offset_s, settings, hit):
    scores = event_list_scores.score_event_lists(
        {"x": events((0, 4, "car"))}, {"x": events((onset_s, offset_s, "car"))}, tolerances=Tolerances(**settings)
    )
    assert scores["event"]["micro_f"] == 100 * hit


def test_length_of_segments():
    scores = event_list_scores.score_event_lists(
        {"x": events((0, 1, "car"))}, {"x": events((0, 1.5, "car"))}, tolerances=Tolerances(segment_s=0.5)
    )
    assert scores["segment"]["micro_f"] == pytest.approx(100 * 2 * 2 / (2 + 3))


def test_times_are_not_rounded():
    assert (
        event_list_scores.score_event_lists({"x": events((2, 3, "car"))}, {"x": events((2.2, 3, "car"))})["event"]["micro_f"] == 0
    )
    assert (
        event_list_scores.score_event_lists({"x": events((1, 3, "car"))}, {"x": events((1.2, 3, "car"))})["event"]["micro_f"]
        == 100
    )


def test_class_without_events_counts_0():
    reference, estimated = {"x": events((0, 1, "car"), (0, 1, "dog"))}, {"x": events((0, 1, "car"))}
    assert event_list_scores.score_event_lists(reference, estimated)["event"]["macro_f"] == 50
    # sed_eval leaves the dog out.
    sed_eval, _ = import_eval_packages()
    theirs = sed_eval.sound_event.EventBasedMetrics(["car", "dog"])
    rows = [{"onset": 0.0, "offset": 1.0, "event_label": label} for label in ("car", "dog")]
    assert theirs.evaluate(rows, rows[:1]).results_class_wise_average_metrics()["f_measure"]["f_measure"] == 1
    scores = event_list_scores.score_event_lists(reference, estimated, labels=["car", "dog", "cat", "None"])
    for kind in ("segment", "event"):
        assert scores[kind]["macro_f"] == 25
        assert scores[kind]["class_f"] == {"car": 100, "dog": 0, "cat": 0, "None": 0}


@pytest.mark.parametrize("segment_s", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("onset_s", [0.0, 0.3, 1.0, 1.1, 2.0, 7.0])
def test_zero_length_events_count_in_the_segment_that_holds_them(onset_s, segment_s):
    reference = {"x": events((onset_s, onset_s, "car"), (3, 3 + segment_s, "horn")), "y": events((onset_s, onset_s, "car"))}
    for estimated, n_estimated in ((reference, 3), ({"x": reference["x"], "y": []}, 2)):
        scores = event_list_scores.score_event_lists(reference, estimated, tolerances=Tolerances(segment_s=segment_s))
        assert scores["segment"]["n_reference"] == scores["event"]["n_reference"] == 3
        assert scores["segment"]["n_estimated"] == scores["event"]["n_estimated"] == n_estimated
    # In the middle of a segment sed_eval counts them too, and a segment's length away they are no hit.
    near, far = (events((time_s, time_s, "car")) for time_s in (onset_s + segment_s / 2, onset_s + 1.5 * segment_s))
    if onset_s in (0, 1, 2, 7):
        for estimated, hits in ((near, 1), (far, 0)):
            scores = event_list_scores.score_event_lists(
                {"y": reference["y"]}, {"y": estimated}, tolerances=Tolerances(segment_s)
            )
            assert scores["segment"]["recall"] == 100 * hits


def random_events(rng):
    """Events on a grid of 0.25 s; a third of them has no length."""
    rows = []
    for _ in range(rng.integers(0, 12)):
        onset = rng.integers(0, 40) / 4
        rows.append((onset, onset + rng.integers(0, 12) / 4 * (rng.random() > 1 / 3), str(rng.choice(["car", "dog", "cat"]))))
    return events(*rows)


def test_a_list_scores_100_against_itself():
    rng = np.random.default_rng(0)
    lists = {f"{number}.wav": random_events(rng) for number in range(50)}
    scores = event_list_scores.score_event_lists(lists, lists)
    for kind in ("segment", "event"):
        assert {scores[kind][key] for key in ("micro_f", "macro_f", "precision", "recall")} == {100.0}
        assert set(scores[kind]["class_f"].values()) == {100.0} and scores[kind]["error_rate"] == 0


@pytest.mark.parametrize("seed", range(5))
def test_segments_agree_with_sed_eval_and_a_loop(seed):
    """sed_eval leaves out zero-length events on a border; the loop counts every segment that an event touches."""
    rng = np.random.default_rng(seed)
    labels = ["car", "cat", "dog"]
    reference, estimated = (
        {name: [*random_events(rng), *events((3, 4, "car"))] for name in "xyz"} for _ in ("reference", "estimated")
    )

    def touched(lists):
        return {
            (name, label, segment)
            for name, rows in lists.items()
            for _, label, segment in (
                (event, event.label, segment)
                for event in rows
                for segment in range(14)
                if (event.onset_s < segment + 1 and event.offset_s > segment)
                or (event.onset_s == event.offset_s and segment <= event.onset_s < segment + 1)
            )
        }

    true, guess = touched(reference), touched(estimated)
    scores = event_list_scores.score_event_lists(reference, estimated, labels=labels)["segment"]
    assert (scores["n_reference"], scores["n_estimated"]) == (len(true), len(guess))
    assert scores["micro_f"] == pytest.approx(200 * len(true & guess) / (len(true) + len(guess)))
    # Without zero-length events on a border, sed_eval's own class has the same figures.
    sed_eval, _ = import_eval_packages()
    plain = sed_eval.sound_event.SegmentBasedMetrics(labels, 1.0)
    for name in "xyz":
        rows = [
            [{"onset": float(e.onset_s), "offset": float(e.offset_s), "event_label": e.label} for e in lists[name] if inside(e)]
            for lists in (reference, estimated)
        ]
        plain.evaluate(*rows)
    inner = [{name: [e for e in lists[name] if inside(e)] for name in "xyz"} for lists in (reference, estimated)]
    scores = event_list_scores.score_event_lists(*inner, labels=labels)["segment"]
    assert scores["micro_f"] == pytest.approx(100 * plain.overall_f_measure()["f_measure"])
    assert scores["error_rate"] == pytest.approx(plain.overall_error_rate()["error_rate"])


def inside(event):
    return event.onset_s < event.offset_s or event.onset_s % 1 > 0


def test_lists_without_any_event_say_so(tmp_path, capsys):
    event_list_scores.score_event_lists({"x": []}, {"x": []})
    assert capsys.readouterr().err.startswith("warning: neither the reference nor the estimate has an event")
    (tmp_path / "names.txt").write_text("a.wav\nb.wav\n")
    event_list_scores.score_event_files(tmp_path / "names.txt", tmp_path / "names.txt")
    assert "0 of 0" in capsys.readouterr().err
    event_list_scores.score_event_lists({"x": []}, {"x": events((0, 1, "car"))})
    assert capsys.readouterr().err == ""


def test_labels_to_score_may_be_spelled_in_any_form(tmp_path):
    (tmp_path / "list.tsv").write_text("x\t0\t2\th\u00fcndin\n", encoding="utf-8")
    scores = event_list_scores.score_event_files(tmp_path / "list.tsv", tmp_path / "list.tsv", labels=["hu\u0308ndin"])
    assert scores["event"]["class_f"] == {"h\u00fcndin": 100}


def test_no_events():
    scores = event_list_scores.score_event_lists({"x": []}, {"x": []})
    for kind in ("segment", "event"):
        assert scores[kind]["micro_f"] == scores[kind]["macro_f"] == scores[kind]["n_reference"] == 0
        assert scores[kind]["error_rate"] is None and scores[kind]["deletion_rate"] is None
    false = event_list_scores.score_event_lists({"x": []}, {"x": events((0, 1, "car"))})["event"]
    assert (false["n_estimated"], false["micro_f"], false["error_rate"]) == (1, 0, None)


def test_label_that_dcase_util_takes_for_missing(capsys):
    scores = event_list_scores.score_event_lists({"x": events((0, 1, "None"))}, {"x": events((0, 1, "None"))})
    assert scores["event"]["class_f"] == {"None": 100}
    assert capsys.readouterr().err == ""


def test_labels_to_score(capsys):
    scores = event_list_scores.score_event_lists(REFERENCE, ESTIMATED, labels=["car"])
    assert scores["event"]["micro_f"] == scores["event"]["macro_f"] == 100
    assert scores["event"]["n_estimated"] == 1
    assert capsys.readouterr().err.endswith("labels that are not scored are left out: cat, dog\n")


def test_reference_defines_the_recordings(capsys):
    reference = {"a/x.wav": REFERENCE["x"], "a/y.wav": events((0, 2, "car"))}
    scores = event_list_scores.score_event_lists(reference, {"x": ESTIMATED["x"]})
    assert scores["event"]["n_reference"] == 3 and scores["event"]["micro_f"] == pytest.approx(100 / 3)
    assert "1 of 2 recordings of the reference are not in the estimate, a/y.wav for one" in capsys.readouterr().err
    with pytest.raises(InputError, match="'z' is not in the reference"):
        event_list_scores.score_event_lists(reference, {"z": []})
    with pytest.raises(InputError, match="no recording"):
        event_list_scores.score_event_lists({}, {})


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"segment_s": 0.0}, "segment_s is 0.0; it must be a number of seconds above 0"),
        ({"onset_collar_s": -0.2}, "onset_collar_s is -0.2"),
        ({"offset_collar_s": float("nan")}, "offset_collar_s is nan"),
        ({"offset_share": 1.5}, "offset_share is 1.5; it must be a share from 0 to 1"),
    ],
)
def test_invalid_tolerances(setting, message):
    with pytest.raises(InputError, match=message):
        event_list_scores.score_event_lists(REFERENCE, ESTIMATED, tolerances=Tolerances(**setting))


def test_missing_package_gives_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "sed_eval", None)
    with pytest.raises(InputError, match=r"^sed_eval is missing: pip install -e '\.\[eval\]'"):
        event_list_scores.score_event_lists(REFERENCE, ESTIMATED)


def test_two_files(tmp_path, capsys):
    (tmp_path / "truth.txt").write_text("0\t2\tcar\n3\t4\tdog\n")
    (tmp_path / "system.tsv").write_text("filename\tonset\toffset\tevent_label\nx.wav\t0.1\t2.1\tcar\n")
    scores = event_list_scores.score_event_files(
        tmp_path / "truth.txt", tmp_path / "system.tsv", tolerances=Tolerances(offset_share=0.2)
    )
    assert scores["event"]["micro_f"] == pytest.approx(200 / 3)
    assert scores["recordings"] == 1 and scores["reference"].endswith("truth.txt")
    assert scores["settings"] == {
        "labels": None, "segment_s": 1.0, "onset_collar_s": 0.2, "offset_collar_s": 0.2, "offset_share": 0.2
    }  # fmt: skip
    json.dumps(scores, allow_nan=False)
    assert capsys.readouterr().err == ""


def test_empty_file_is_an_estimate_without_detections(tmp_path, capsys):
    (tmp_path / "truth.tsv").write_text("x\t0\t2\tcar\ny\t0\t2\tcar\n")
    (tmp_path / "system.tsv").write_text("")
    scores = event_list_scores.score_event_files(tmp_path / "truth.tsv", tmp_path / "system.tsv")
    assert scores["event"]["n_estimated"] == 0 and scores["event"]["deletion_rate"] == 1
    assert "2 of 2 recordings" in capsys.readouterr().err
    (tmp_path / "system.tsv").write_text("0\t2\tcar\n")
    with pytest.raises(InputError, match=r"system\.tsv against .*truth\.tsv: .* 'system' is not in the reference"):
        event_list_scores.score_event_files(tmp_path / "truth.tsv", tmp_path / "system.tsv")


@pytest.mark.parametrize("system", DESED)
def test_desed_systems(shared_dir, system):
    folder = shared_dir / "golden" / "event_metrics" / "desed_task_psds_eval"
    estimated = folder / "metrics_test" / system / "predictions0.5.csv"
    scores = event_list_scores.score_event_files(folder / "validation.tsv", estimated, tolerances=Tolerances(offset_share=0.2))
    for kind, expected in zip(("event", "segment"), DESED[system], strict=True):
        assert tuple(round(scores[kind][key], 2) for key in ("micro_f", "macro_f", "error_rate")) == expected
    if system == "teacher":  # compare every class with the published report
        report = (folder / "metrics_test" / system / "event_f1.txt").read_text().split("Class-wise metrics")[1]
        class_lines = [line.split("|") for line in report.splitlines() if "%" in line]
        assert len(class_lines) == len(scores["event"]["class_f"]) == 10
        for name, counts, f, _ in (cells[:4] for cells in class_lines):
            label = next(label for label in scores["event"]["class_f"] if label.startswith(name.strip().rstrip(".")))
            assert counts.split() == [str(scores["event"][key][label]) for key in ("class_n_reference", "class_n_estimated")]
            assert f.split()[0] == f"{scores['event']['class_f'][label]:.1f}%"


@pytest.mark.parametrize("name", SED_EVAL)
def test_files_of_sed_eval(shared_dir, name):
    golden = shared_dir / "golden" / "event_metrics"
    expected = json.loads((golden / "expected.json").read_text())["sed_eval_tests"][name]
    folder = golden / "sed_eval" / "tests" / "data" / "sound_event"
    reference, estimated = SED_EVAL[name]
    scores = event_list_scores.score_event_files(folder / reference, folder / estimated)
    for kind, section in (("segment", "segment_1s_overall"), ("event", "event_200ms_50pct_overall")):
        for key, value in expected[section]["f_measure"].items():
            assert scores[kind]["micro_f" if key == "f_measure" else key] == pytest.approx(100 * value, abs=1e-7)
        for key, value in expected[section]["error_rate"].items():
            assert scores[kind][key] == pytest.approx(value, abs=1e-9)


def test_order_of_events_does_not_matter(shared_dir):
    folder = shared_dir / "golden" / "event_metrics" / "sed_eval" / "tests" / "data" / "sound_event"
    for estimated in ("mini_detected_a.txt", "mini_detected_b.txt"):
        # 1.25 s and 1.75 s may both be the event at 1.5 s, but 1.75 s is not that at 1 s.
        scores = event_list_scores.score_event_files(
            folder / "mini_reference.txt", folder / estimated, tolerances=Tolerances(onset_collar_s=0.25)
        )
        assert scores["event"]["micro_f"] == 100
