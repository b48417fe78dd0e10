"""The choice of rules: on constructed scores, against brute force, and on a run with a held-out fold."""

import json
import shutil
import types

import numpy as np
import pytest
import sklearn.metrics

import mfl_jax
from mfl_jax import predict
from mfl_jax.data import prepared_dataset
from mfl_jax.errors import InputError
from mfl_jax.inference import postprocessing
from mfl_jax.inference.postprocessing import Rule
from mfl_jax.runtime import workdir_config
from mfl_jax.scoring import evaluate_run, tune
from mfl_jax.training import loop
from support.small import small_config

pytestmark = pytest.mark.lightly_optimised

HOP_S = 0.02


# F-scores.


def random_frames(rng, recordings=4):
    """Detected and active frames of recordings of random lengths."""
    lengths = rng.integers(1, 400, recordings)
    return tuple([np.repeat(rng.random(-(-n // 7)) < share, 7)[:n] for n in lengths] for share in (0.3, 0.4))


def test_f_of_frames_equals_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    for _ in range(30):
        detected, active = random_frames(rng)
        expected = sklearn.metrics.f1_score(np.concatenate(active), np.concatenate(detected), zero_division=0)
        assert tune.compute_f_score(detected, active, "frame", HOP_S) == pytest.approx(expected, abs=1e-12)


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
        assert tune.compute_f_score(detected, active, "segment", hop_samples / rate) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("score", ["frame", "segment"])
def test_f_without_events_is_0(score):
    for recordings in ([], [np.zeros(0, bool)], [np.zeros(70, bool)] * 2):
        assert tune.compute_f_score(recordings, recordings, score, HOP_S) == 0.0
    assert tune.compute_f_score([np.ones(70, bool)], [np.ones(70, bool)], score, HOP_S) == 1.0


# The choice.


def blocks(*lengths_and_values):
    return np.concatenate([np.full(length, value, np.float32) for length, value in lengths_and_values])


def choose(scores, active, *, start=None, score="frame"):
    return tune.choose_rule(scores, active, start=start or Rule(), score=score, hop_s=HOP_S)


@pytest.mark.parametrize("score", ["frame", "segment"])
@pytest.mark.parametrize("threshold", tune.THRESHOLDS)
def test_separating_threshold_is_found(threshold, score):
    """Only this threshold of the grid separates the scores of active and inactive frames."""
    scores = [blocks((200, threshold - 0.04), (300, threshold), (200, threshold - 0.04)), blocks((100, threshold - 0.01))]
    active = [recording >= np.float32(threshold) for recording in scores]
    rule, before, after = choose(scores, active, score=score)
    assert (rule.threshold, after) == (threshold, 1.0)
    assert before == pytest.approx(tune.compute_f_score([s >= 0.5 for s in scores], active, score, HOP_S))


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
            return tune.compute_f_score([detect_frames(s, rule) for s in scores], active, score, HOP_S)

        assert before == pytest.approx(score_rule(start), abs=1e-12)
        assert after == pytest.approx(score_rule(rule), abs=1e-12) and after >= before
        grid = [Rule(m, t, None, start.max_gap_s, start.min_duration_s) for m in tune.MEDIANS_S for t in tune.THRESHOLDS]
        assert after >= max(map(score_rule, grid)) - 1e-12


def test_event_without_labels_keeps_its_rule():
    start = Rule(threshold=0.7, median_s=0.1)
    scores = [np.full(50, 0.9, np.float32), np.zeros(10, np.float32)]
    assert choose(scores, [np.zeros(50, bool), np.zeros(10, bool)], start=start) == (start, 0.0, 0.0)
    assert choose([], [], start=start) == (start, 0.0, 0.0)


# A run.


@pytest.fixture(scope="module")
def held_out_run(trained_run, tmp_path_factory):
    """The folder of an evaluated run that held out fold 1, its config, and its data set."""
    _, root = trained_run
    config = small_config(root, validation="fold1", epochs=2)
    dataset = prepared_dataset.open_dataset(config.dataset, root / "data")
    workdir = tmp_path_factory.mktemp("tune") / "run"
    loop.train(config, dataset, workdir)
    evaluate_run.evaluate_run(config, dataset, workdir)
    return workdir, config, dataset


@pytest.fixture(scope="module")
def tuned_run(held_out_run, tmp_path_factory):
    """A tuned copy of the run, and its rules."""
    workdir, config, dataset = held_out_run
    copy = shutil.copytree(workdir, tmp_path_factory.mktemp("tuned") / "run")
    return copy, tune.tune(config, dataset, copy)


def test_tuning_writes_rules_that_raise_the_score_of_the_held_out_recordings(held_out_run, tuned_run):
    workdir, rules = tuned_run
    _, config, dataset = held_out_run
    model = mfl_jax.load(workdir)
    assert model.which == "best"
    file = workdir / "postprocessing.json"
    assert postprocessing.read_rules(file, model.events, step=model.step) == rules and list(rules) == ["high", "low"]
    contents = json.loads(file.read_text())
    clips = dataset.read("development")
    held_out = sorted({str(name) for name in clips.recording[clips.fold == 1]})
    assert contents["recordings"] == len(held_out) == 2
    assert (contents["score"], contents["validation"], contents["step"]) == ("frame", "fold1", model.step)
    # Score the clips of those recordings one by one, without the code that tuning uses.
    for column, label in enumerate(model.events):
        scores, active = [], []
        for recording in held_out:
            numbers = np.flatnonzero(clips.recording == recording)
            single = [clips.take(np.array([n])) for n in numbers[np.argsort(clips.clip_start_s[numbers])]]
            valid = [(clip, int(clip["valid_frames"][0])) for clip in single]
            scores.append(np.concatenate([model(clip["log_mel"][0, :n])[1] for clip, n in valid]))
            active.append(np.concatenate([clip["events"][0, :n, column] for clip, n in valid]))
        for key, rule in (("f_before", Rule(threshold=config.threshold)), ("f_after", rules[label])):
            detected = [postprocessing.mark_detected_frames(s, model.events, {label: rule}, HOP_S)[:, column] for s in scores]
            expected = 100 * sklearn.metrics.f1_score(np.concatenate(active), np.concatenate(detected), zero_division=0)
            assert contents["held_out"][label][key] == pytest.approx(expected, abs=0.5), (label, key)
        assert contents["held_out"][label]["f_after"] >= contents["held_out"][label]["f_before"]
    assert not list(workdir.glob("*.part*"))


class InvertedLabels(prepared_dataset.Dataset):
    """A data set with inverted labels in some folds, whose evaluation split must not be read."""

    def read(self, split):
        assert split == "development"
        clips = super().read(split)
        clips.arrays["events"][np.isin(clips.fold, self.folds)] ^= True
        return clips


def invert_labels(dataset, folds):
    inverted = InvertedLabels(**vars(dataset))
    object.__setattr__(inverted, "folds", folds)
    return inverted


def test_tuning_reads_only_the_held_out_recordings(held_out_run, tuned_run, tmp_path):
    workdir, config, dataset = held_out_run
    texts = {}
    for name, folds in (("others", [2, 3, 4]), ("held_out", [1])):
        copy = shutil.copytree(workdir, tmp_path / name)
        tune.tune(config, invert_labels(dataset, folds), copy)
        texts[name] = (copy / "postprocessing.json").read_text()
    before = (tuned_run[0] / "postprocessing.json").read_text()
    assert texts["others"] == before
    assert texts["held_out"] != before


def test_tuning_for_segments_changes_one_file(trained_run, held_out_run, tmp_path):
    """Fields that do not affect training may change from call to call."""
    workdir, _, dataset = held_out_run
    copy = shutil.copytree(workdir, tmp_path / "run")
    other = small_config(trained_run[1], validation="fold1", epochs=2, tune="segment", postprocess="tuned", scores="frame,event")
    before = {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()}
    tune.tune(other, dataset, copy)
    assert json.loads((copy / "postprocessing.json").read_text())["score"] == "segment"
    after = {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()}
    assert after.pop(copy / "postprocessing.json") and after == before


def test_rules_do_not_change_the_paper_scores(trained_run, held_out_run, tuned_run, tmp_path):
    """The paper's scores use one threshold, even if the rules of the run detect nothing."""
    workdir, config, dataset = held_out_run
    before = json.loads((workdir / "results.json").read_text())
    copy = shutil.copytree(tuned_run[0], tmp_path / "run")
    (copy / "postprocessing.json").write_text(json.dumps({"rules": {"*": {"min_duration_s": 1000}}}))
    assert evaluate_run.evaluate_run(config, dataset, copy) == before
    config = small_config(trained_run[1], validation="fold1", epochs=2, postprocess="tuned")
    assert evaluate_run.evaluate_run(config, dataset, copy) == before


def test_predict_uses_the_rules_of_the_run(trained_run, tuned_run, tmp_path, monkeypatch):
    """The rule makes each recording one event; `none` and a file of rules replace it."""
    _, root = trained_run
    run = shutil.copytree(tuned_run[0], tmp_path / "run")
    step = mfl_jax.load(run).step
    (run / "postprocessing.json").write_text(postprocessing.rules_to_json({"*": Rule(threshold=1e-6)}, step=step))
    never = tmp_path / "never.json"
    never.write_text(postprocessing.rules_to_json({"*": Rule(threshold=1.0)}))
    recording = str(root / "recordings" / "audio" / "evaluation_0.wav")
    detected = {}
    for way in ("auto", "none", str(never)):
        chosen = {"checkpoint": str(run), "out": str(tmp_path / "out"), "write": ["json"], "overlap": 0.5, "postprocess": way}
        monkeypatch.setattr("absl.flags.FLAGS", types.SimpleNamespace(**chosen, reference=None, plot=False, page=False))
        assert predict.run([recording]) == 0
        summary = json.loads((tmp_path / "out" / "summary.json").read_text())
        assert summary["postprocess"] == ("tuned" if way == "auto" else way)
        detected[way] = summary["recordings"][0]["events"]
    scores = mfl_jax.load(run).predict(recording).frame_scores
    expected = {label: len(postprocessing.find_runs(scores[:, m] >= np.float32(0.5))) for m, label in enumerate(["high", "low"])}
    assert detected["auto"] == {"high": 1, "low": 1} and detected[str(never)] == {}
    assert detected["none"] == {label: count for label, count in expected.items() if count}


def catch_refusal(config, dataset, workdir):
    with pytest.raises(InputError) as refusal:
        tune.tune(config, dataset, workdir)
    assert "\n" not in str(refusal.value)
    assert not (workdir / "postprocessing.json").exists()
    return str(refusal.value)


def test_runs_that_cannot_be_tuned_are_refused(trained_run, held_out_run, tmp_path):
    plain, root = trained_run
    workdir, config, dataset = held_out_run
    assert "validation=fold1" in catch_refusal(small_config(root), dataset, plain)
    assert "config.tasks" in catch_refusal(small_config(root, tasks=("scene",), validation="fold1"), dataset, workdir)
    assert "train first" in catch_refusal(config, dataset, tmp_path / "nowhere")
    workdir_config.claim_workdir(tmp_path / "claimed", config)
    assert "train first" in catch_refusal(config, dataset, tmp_path / "claimed")
    assert "another config" in catch_refusal(small_config(root, validation="fold2", epochs=2), dataset, workdir)
    # A run stopped during its first epoch has an empty folder.
    shutil.copytree(workdir, tmp_path / "stopped", ignore=shutil.ignore_patterns("[0-9]*"))
    assert "no checkpoint" in catch_refusal(config, dataset, tmp_path / "stopped")
    other = prepared_dataset.Dataset(**{**vars(dataset), "events": ("a", "b")})
    assert "other events" in catch_refusal(config, other, workdir)
