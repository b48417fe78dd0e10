"""Choosing rules: against brute force, on constructed scores, and on a run with a held-out fold."""

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
from mfl_jax.training import config_checks, loop
from support.small import small_config

pytestmark = pytest.mark.lightly_optimised

HOP_S = 0.02


# F-scores.


def some_frames(rng, recordings=4):
    """Detected and active frames of recordings of random lengths, in runs."""
    lengths = rng.integers(1, 400, recordings)
    return tuple([np.repeat(rng.random(-(-n // 7)) < share, 7)[:n] for n in lengths] for share in (0.3, 0.4))


def test_f_of_frames_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    for _ in range(30):
        detected, active = some_frames(rng)
        expected = sklearn.metrics.f1_score(np.concatenate(active), np.concatenate(detected), zero_division=0)
        assert tune.f_score(detected, active, "frame", HOP_S) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("hop_samples", "rate"), [(160, 8000), (882, 44_100), (1, 3), (900, 44_100), (512, 44_100)])
def test_f_of_segments_is_that_of_a_loop(hop_samples, rate):
    """A segment is active if an active frame overlaps it; those of one recording never touch those of the next."""
    rng = np.random.default_rng(1)
    for _ in range(30):
        detected, active = some_frames(rng)
        tp = fp = fn = 0
        for of_detected, of_active in zip(detected, active, strict=True):
            # Segments and frames in units of a sample: both ends of a frame that straddles a second count.
            for segment in range(-(-len(of_active) * hop_samples // rate)):
                start, end = segment * rate, (segment + 1) * rate
                frames = [t for t in range(len(of_active)) if t * hop_samples < end and (t + 1) * hop_samples > start]
                found, there = any(of_detected[frames]), any(of_active[frames])
                tp, fp, fn = tp + (found and there), fp + (found and not there), fn + (there and not found)
        expected = 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0
        assert tune.f_score(detected, active, "segment", hop_samples / rate) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("score", ["frame", "segment"])
def test_nothing_to_find_and_nothing_found_is_0(score):
    for recordings in ([], [np.zeros(0, bool)], [np.zeros(70, bool)] * 2):
        assert tune.f_score(recordings, recordings, score, HOP_S) == 0.0
    assert tune.f_score([np.ones(70, bool)], [np.ones(70, bool)], score, HOP_S) == 1.0


# The choice.


def blocks(*lengths_and_values):
    return np.concatenate([np.full(length, value, np.float32) for length, value in lengths_and_values])


def chosen(scores, active, *, start=None, score="frame"):
    return tune.choose(scores, active, start=start or Rule(), score=score, hop_s=HOP_S)


@pytest.mark.parametrize("score", ["frame", "segment"])
@pytest.mark.parametrize("threshold", tune.THRESHOLDS)
def test_the_threshold_that_tells_apart_is_found(threshold, score):
    """Only this one of the grid lies between the scores of what is there and of what is not."""
    scores = [blocks((200, threshold - 0.04), (300, threshold), (200, threshold - 0.04)), blocks((100, threshold - 0.01))]
    active = [of_recording >= np.float32(threshold) for of_recording in scores]
    rule, before, after = chosen(scores, active, score=score)
    assert (rule.threshold, after) == (threshold, 1.0)
    assert before == pytest.approx(tune.f_score([s >= 0.5 for s in scores], active, score, HOP_S))


def test_of_equal_thresholds_the_one_in_the_middle_is_chosen():
    """0.25 to 0.75 are all perfect; the start, 0.9, is not."""
    scores = [blocks((300, 0.2), (300, 0.78), (300, 0.2))]
    rule, before, after = chosen(scores, [scores[0] > 0.5], start=Rule(threshold=0.9))
    assert (rule.threshold, before, after) == (0.5, 0.0, 1.0)


def test_a_filter_that_does_not_raise_the_score_stays_out():
    """Long events with clear edges: median filters change nothing."""
    scores = [blocks((300, 0.1), (300, 0.32), (300, 0.1))]
    rule, _, after = chosen(scores, [scores[0] > 0.2])
    assert after == 1.0 and rule == Rule(threshold=rule.threshold)


def test_a_rule_that_is_as_good_as_any_is_kept():
    scores = [blocks((300, 0.1), (300, 0.9), (300, 0.1))]
    start = Rule(threshold=0.35)
    assert chosen(scores, [scores[0] > 0.5], start=start) == (start, 1.0, 1.0)


def test_a_median_filter_is_found_where_it_helps():
    """Clicks of one frame and holes of one frame: no threshold tells them from events."""
    scores = blocks((200, 0.1), (200, 0.9), (200, 0.1))
    active = [scores > 0.5]
    scores[[50, 90, 450, 555]], scores[[250, 290, 333]] = 0.95, 0.05
    rule, before, after = chosen([scores], active)
    assert rule.median_s > 0 and before < 1 and after == 1.0


def test_hysteresis_is_found_where_it_helps():
    """What is there has a peak; what is not is as high as the rest of it."""
    scores = blocks((100, 0.1), (60, 0.4), (60, 0.8), (60, 0.4), (200, 0.1), (400, 0.4), (100, 0.1))
    active = np.zeros(len(scores), bool)
    active[100:280] = True
    rule, before, after = chosen([scores], [active])
    assert rule.low_threshold is not None and rule.low_threshold <= 0.4 < rule.threshold <= 0.8
    assert before < after == 1.0


def test_gaps_and_short_events_are_found_where_they_help():
    """Events with holes of 0.6 s that are longer than what lies between them, and false alarms of 0.16 s far from those."""
    hit, hole, quiet, alarm = (10, 0.9), (30, 0.1), (150, 0.1), (8, 0.9)
    one = blocks(quiet, hit, hole, hit, hole, hit, quiet, alarm, quiet, alarm)
    active = np.zeros(len(one), bool)
    active[150:240] = True
    rule, before, after = chosen([one], [active])
    assert rule == Rule(threshold=0.5, max_gap_s=0.8, min_duration_s=rule.min_duration_s) and rule.min_duration_s >= 0.2
    assert before < after == 1.0


def random_task(rng):
    """Noisy scores of events in a few recordings."""
    active = [np.repeat(rng.random(20) < 0.3, 15)[: rng.integers(100, 300)] for _ in range(3)]
    scores = [
        np.clip(0.3 * a + rng.uniform(0, 0.6) + 0.25 * rng.standard_normal(len(a)), 0, 1).astype(np.float32) for a in active
    ]
    return scores, active


def frames_of(scores, rule):
    return postprocessing.mark_detected_frames(scores[:, None], ["x"], {"x": rule}, HOP_S)[:, 0]


@pytest.mark.parametrize("score", ["frame", "segment"])
def test_no_threshold_and_no_median_filter_is_better_and_the_start_never(score):
    rng = np.random.default_rng(2)
    for _ in range(6):
        scores, active = random_task(rng)
        start = Rule(threshold=round(float(rng.uniform(0.1, 0.9)), 2), min_duration_s=float(rng.choice([0, 0.1])))
        rule, before, after = chosen(scores, active, start=start, score=score)

        def f_of(rule, scores=scores, active=active):
            return tune.f_score([frames_of(s, rule) for s in scores], active, score, HOP_S)

        assert before == pytest.approx(f_of(start), abs=1e-12)
        assert after == pytest.approx(f_of(rule), abs=1e-12) and after >= before
        grid = [Rule(m, t, None, start.max_gap_s, start.min_duration_s) for m in tune.MEDIANS_S for t in tune.THRESHOLDS]
        assert after >= max(map(f_of, grid)) - 1e-12


def test_an_event_that_never_happens_keeps_its_rule():
    start = Rule(threshold=0.7, median_s=0.1)
    scores = [np.full(50, 0.9, np.float32), np.zeros(10, np.float32)]
    assert chosen(scores, [np.zeros(50, bool), np.zeros(10, bool)], start=start) == (start, 0.0, 0.0)
    assert chosen([], [], start=start) == (start, 0.0, 0.0)


# A run.


@pytest.fixture(scope="module")
def held_out_run(trained_run, tmp_path_factory):
    """A run that held fold 1 out, and was evaluated; its config; its data."""
    _, root = trained_run
    config = small_config(root, validation="fold1", epochs=2)
    dataset = prepared_dataset.open_dataset(config.dataset, root / "data")
    workdir = tmp_path_factory.mktemp("tune") / "run"
    loop.train(config, dataset, workdir)
    evaluate_run.evaluate_run(config, dataset, workdir)
    return workdir, config, dataset


@pytest.fixture(scope="module")
def tuned_run(held_out_run, tmp_path_factory):
    """The same, tuned; and the rules."""
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
    made = json.loads(file.read_text())
    clips = dataset.read("development")
    held_out = sorted({str(name) for name in clips.recording[clips.fold == 1]})
    assert made["recordings"] == len(held_out) == 2
    assert (made["score"], made["validation"], made["step"]) == ("frame", "fold1", model.step)
    # Counted anew: the clips of those recordings one by one, without what tuning reads them with.
    for column, label in enumerate(model.events):
        scores, active = [], []
        for recording in held_out:
            numbers = np.flatnonzero(clips.recording == recording)
            taken = [clips.take(np.array([n])) for n in numbers[np.argsort(clips.clip_start_s[numbers])]]
            valid = [(clip, int(clip["valid_frames"][0])) for clip in taken]
            scores.append(np.concatenate([model(clip["log_mel"][0, :n])[1] for clip, n in valid]))
            active.append(np.concatenate([clip["events"][0, :n, column] for clip, n in valid]))
        for key, rule in (("f_before", Rule(threshold=config.threshold)), ("f_after", rules[label])):
            detected = [postprocessing.mark_detected_frames(s, model.events, {label: rule}, HOP_S)[:, column] for s in scores]
            expected = 100 * sklearn.metrics.f1_score(np.concatenate(active), np.concatenate(detected), zero_division=0)
            assert made["held_out"][label][key] == pytest.approx(expected, abs=0.5), (label, key)
        assert made["held_out"][label]["f_after"] >= made["held_out"][label]["f_before"]
    assert not list(workdir.glob("*.part*"))


class Spoiled(prepared_dataset.Dataset):
    """A data set in which the labels of some folds say the contrary, and whose evaluation split must not be looked at."""

    def read(self, split):
        assert split == "development"
        clips = super().read(split)
        clips.arrays["events"][np.isin(clips.fold, self.folds)] ^= True
        return clips


def spoiled(dataset, folds):
    made = Spoiled(**vars(dataset))
    object.__setattr__(made, "folds", folds)
    return made


def test_tuning_looks_at_the_held_out_recordings_alone(held_out_run, tuned_run, tmp_path):
    workdir, config, dataset = held_out_run
    texts = {}
    for name, folds in (("others", [2, 3, 4]), ("held_out", [1])):
        copy = shutil.copytree(workdir, tmp_path / name)
        tune.tune(config, spoiled(dataset, folds), copy)
        texts[name] = (copy / "postprocessing.json").read_text()
    before = (tuned_run[0] / "postprocessing.json").read_text()
    assert texts["others"] == before
    assert texts["held_out"] != before


def test_segments_may_be_tuned_and_the_rest_of_the_run_stays_as_it_is(trained_run, held_out_run, tmp_path):
    """What is asked of a trained network may change from call to call; tuning touches one file."""
    workdir, _, dataset = held_out_run
    copy = shutil.copytree(workdir, tmp_path / "run")
    other = small_config(trained_run[1], validation="fold1", epochs=2, tune="segment", postprocess="tuned", scores="frame,event")
    before = {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()}
    tune.tune(other, dataset, copy)
    made = json.loads((copy / "postprocessing.json").read_text())
    assert made["score"] == "segment"
    after = {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()}
    assert after.pop(copy / "postprocessing.json") and after == before


def test_evaluating_is_the_same_with_and_without_rules(trained_run, held_out_run, tuned_run, tmp_path):
    """The paper's scores know one threshold; rules beside the checkpoint change nothing, even those that find nothing."""
    workdir, config, dataset = held_out_run
    before = json.loads((workdir / "results.json").read_text())
    copy = shutil.copytree(tuned_run[0], tmp_path / "run")
    (copy / "postprocessing.json").write_text(json.dumps({"rules": {"*": {"min_duration_s": 1000}}}))
    assert evaluate_run.evaluate_run(config, dataset, copy) == before
    config = small_config(trained_run[1], validation="fold1", epochs=2, postprocess="tuned")
    assert evaluate_run.evaluate_run(config, dataset, copy) == before


def test_predicting_uses_the_rules_of_the_run(trained_run, tuned_run, tmp_path, monkeypatch):
    """With a rule under which everything is one event; `none` and a file of one's own pass it over."""
    _, root = trained_run
    run = shutil.copytree(tuned_run[0], tmp_path / "run")
    step = mfl_jax.load(run).step
    (run / "postprocessing.json").write_text(postprocessing.rules_to_json({"*": Rule(threshold=1e-6)}, step=step))
    never = tmp_path / "never.json"
    never.write_text(postprocessing.rules_to_json({"*": Rule(threshold=1.0)}))
    recording = str(root / "recordings" / "audio" / "evaluation_0.wav")
    detected = {}
    for way in ("auto", "none", str(never)):
        given = {"checkpoint": str(run), "out": str(tmp_path / "out"), "write": ["json"], "overlap": 0.5, "postprocess": way}
        monkeypatch.setattr("absl.flags.FLAGS", types.SimpleNamespace(**given, reference=None, plot=False, page=False))
        assert predict.run([recording]) == 0
        summary = json.loads((tmp_path / "out" / "summary.json").read_text())
        assert summary["postprocess"] == ("tuned" if way == "auto" else way)
        detected[way] = summary["recordings"][0]["events"]
    scores = mfl_jax.load(run).predict(recording).frame_scores
    expected = {label: len(postprocessing.find_runs(scores[:, m] >= np.float32(0.5))) for m, label in enumerate(["high", "low"])}
    assert detected["auto"] == {"high": 1, "low": 1} and detected[str(never)] == {}
    assert detected["none"] == {label: count for label, count in expected.items() if count}


def refused(config, dataset, workdir):
    with pytest.raises(InputError) as refusal:
        tune.tune(config, dataset, workdir)
    assert "\n" not in str(refusal.value)
    assert not (workdir / "postprocessing.json").exists()
    return str(refusal.value)


def test_what_cannot_be_tuned_is_refused(trained_run, held_out_run, tmp_path):
    plain, root = trained_run
    workdir, config, dataset = held_out_run
    assert "validation=fold1" in refused(small_config(root), dataset, plain)
    assert "config.tasks" in refused(small_config(root, tasks=("scene",), validation="fold1"), dataset, workdir)
    assert "train first" in refused(config, dataset, tmp_path / "nowhere")
    workdir_config.claim_workdir(tmp_path / "claimed", config)
    assert "train first" in refused(config, dataset, tmp_path / "claimed")
    assert "another config" in refused(small_config(root, validation="fold2", epochs=2), dataset, workdir)
    # A run that was stopped before its first epoch was over has the folder, and nothing in it.
    shutil.copytree(workdir, tmp_path / "stopped", ignore=shutil.ignore_patterns("[0-9]*"))
    assert "no checkpoint" in refused(config, dataset, tmp_path / "stopped")
    other = prepared_dataset.Dataset(**{**vars(dataset), "events": ("a", "b")})
    assert "other events" in refused(config, other, workdir)


# The fields of a config that tuning and its scores have.


@pytest.mark.parametrize("change", [{"scores": "frame,psds"}, {"postprocess": "tuned"}, {"tune": "segment"}])
def test_what_is_asked_of_a_trained_network_may_change(tmp_path, change):
    workdir_config.claim_workdir(tmp_path / "run", small_config(tmp_path))
    assert workdir_config.check_workdir(tmp_path / "run", small_config(tmp_path, **change))
    workdir_config.claim_workdir(tmp_path / "run", small_config(tmp_path, **change))
    # A run of a version that knew none of these fields.
    before = json.loads((tmp_path / "run" / "config.json").read_text())
    older = {key: value for key, value in before.items() if key not in ("scores", "postprocess", "tune")}
    (tmp_path / "run" / "config.json").write_text(json.dumps(older))
    assert workdir_config.check_workdir(tmp_path / "run", small_config(tmp_path, **change))
    with pytest.raises(InputError, match=r"threshold was 0\.5 and is 0\.4"):
        workdir_config.check_workdir(tmp_path / "run", small_config(tmp_path, threshold=0.4, **change))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scores", "frames"), ("scores", "frame;segment"), ("scores", "frame,psds,segments"), ("scores", "FRAME"),
        ("postprocess", "yes"), ("postprocess", ""), ("tune", "event"), ("tune", "frame,segment"), ("tune", ""),
    ],
)  # fmt: skip
def test_a_field_that_makes_no_sense_is_refused_by_its_name(tmp_path, field, value):
    with pytest.raises(InputError, match=f"^config.{field} is {value!r}; it is"):
        config_checks.check_config(small_config(tmp_path, **{field: value}))


def test_kinds_of_scores_are_separated_by_commas(tmp_path):
    config = small_config(tmp_path, scores=" frame, segment ,,event,psds")
    config_checks.check_config(config)
    assert config_checks.requested_scores(config) == ["frame", "segment", "event", "psds"]
    assert config_checks.requested_scores(small_config(tmp_path, scores="")) == []
