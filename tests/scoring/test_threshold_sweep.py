"""Scores over all thresholds: against sed_scores_eval, in blocks, and with sampled thresholds."""

import numpy as np
import pytest

from mfl_jax.data import event_list
from mfl_jax.scoring import event_list_scores, event_scores, threshold_sweep
from mfl_jax.scoring.eval_packages import import_eval_packages
from mfl_jax.scoring.event_list_scores import Tolerances
from support.event_examples import events, random_scores

pytest.importorskip("sed_scores_eval")


def test_scores_equal_those_of_sed_scores_eval():
    _, sed_scores_eval = import_eval_packages()
    scores, reference, labels, about = random_scores()
    ours = event_scores.score_frames(scores, reference, labels, **about)
    edges = np.round(np.arange(201) * 0.2, 6)
    create = sed_scores_eval.base_modules.scores.create_score_dataframe
    frames = {name: create(array.astype(float), edges, labels) for name, array in scores.items()}
    truth = {name: [(event.onset_s, event.offset_s, event.label) for event in rows] for name, rows in reference.items()}
    durations = about["durations_s"]
    for name, scenario in event_scores.PSDS.items():
        area, class_scores, _, _ = sed_scores_eval.intersection_based.psds(frames, truth, durations, max_efpr=100, **scenario)
        assert ours[name]["psds"] == pytest.approx(area, abs=1e-12) and 0 < area < 1
        assert ours[name]["class_psds"] == pytest.approx(class_scores, abs=1e-12)
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
def test_best_threshold_gives_the_best_f(kind):
    scores, reference, labels, about = random_scores(seed=1)
    best = event_scores.score_frames(scores, reference, labels, kinds=(kind,), **about)[kind]["best"]
    at_best = event_scores.score_frames(scores, reference, labels, kinds=(kind,), threshold=best["threshold"], **about)
    assert at_best[kind]["micro_f"] == pytest.approx(best["micro_f"])
    for label, class_scores in best["class"].items():
        at_best = event_scores.score_frames(
            scores, reference, labels, kinds=(kind,), threshold=class_scores["threshold"], **about
        )
        assert at_best[kind]["class_f"][label] == pytest.approx(class_scores["f"])


def test_blocks_of_thresholds_give_the_same_scores(monkeypatch):
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


def test_sampled_scores_keep_the_order_around_each_threshold():
    scores = {"x": np.random.default_rng(0).random((5000, 1))}
    lower = threshold_sweep.sample_scores(scores)["x"]
    levels = np.unique(lower)
    assert 150 < len(levels) < 320
    assert np.array_equal(levels[-100:], np.sort(scores["x"], axis=0)[-100:, 0])
    for level in levels[::20]:
        assert np.array_equal(lower >= level, scores["x"] >= level)


def test_both_packages_agree_on_a_public_system(shared_dir):
    _, sed_scores_eval = import_eval_packages()
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
    ours = event_list_scores.score_event_lists(reference, estimated, tolerances=Tolerances(offset_share=0.2))
    f, *_ = sed_scores_eval.segment_based.fscore(frames, truth, ends, 0.5, segment_length=1.0)
    assert ours["segment"]["class_f"] == pytest.approx({label: 100 * f[label] for label in labels})
    assert ours["segment"]["micro_f"] == pytest.approx(100 * f["micro_average"])
    # One hit more, since times are rounded before they are compared.
    f, *_, counts = sed_scores_eval.collar_based.fscore(
        frames, truth, 0.5, onset_collar=0.2, offset_collar=0.2, offset_collar_rate=0.2
    )
    n = ours["event"]["n_reference"] + ours["event"]["n_estimated"]
    hits = sum(class_scores["tps"] for class_scores in counts.values())
    assert hits - round(ours["event"]["micro_f"] * n / 200) == 1
    assert ours["event"]["macro_f"] == pytest.approx(100 * f["macro_average"], abs=0.03)


def test_empty_events_become_a_frame():
    assert threshold_sweep.separate_events(events((29.9999999, 30, "a"), (0.14, 0.14, "b")), 0.02, 30.0) == [
        (29.98, 30, "a"),
        (0.14, 0.16, "b"),
    ]
