"""Tuning of a run with a held-out fold."""

import io
import json
import shutil
import types

import numpy as np
import pytest
import rich.console
import sklearn.metrics

import mfl_jax
from mfl_jax import predict
from mfl_jax.data import prepared_dataset
from mfl_jax.data.annotation import Recording
from mfl_jax.errors import InputError
from mfl_jax.inference import postprocessing
from mfl_jax.inference.postprocessing import Rule
from mfl_jax.runtime import workdir_config
from mfl_jax.scoring import clip_scores, evaluate_run, tune
from mfl_jax.training import loop
from support.small import small_config

pytestmark = pytest.mark.lightly_optimised

HOP_S = 0.02


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


def test_tuning_writes_rules_that_raise_the_score_of_the_held_out_recordings(held_out_run, tuned_run, tmp_path):
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
    assert contents["chosen_on"] == "F after tuning is on the recordings it was chosen on, so it is too high"
    assert contents["cross_fitted"] is None
    assert contents["cross_fitted_missing"] == "4 parts need 4 recordings, but 2 were held out"
    of_folds = postprocessing.rules_to_json(
        {label: Rule() for label in model.events}, shared_threshold=0.5, fingerprint=dataset.fingerprint
    )
    (tmp_path / "folds" / "thresholds").mkdir(parents=True)
    (tmp_path / "folds" / "thresholds" / f"{config.name}.json").write_text(of_folds)
    config = type(config)(config.to_dict() | {"thresholds_from": str(tmp_path / "folds")})
    scored = evaluate_run.evaluate_run(config, dataset, shutil.copytree(workdir, tmp_path / "scored"))
    tuned = scored["event_probabilities"]
    for kind in ("shared", "by_event"):  # thresholds of 0.5, that of the config
        assert tuned["fold_thresholds"][kind]["class_f"] == pytest.approx(scored["event"]["class_f"])
    assert (tmp_path / "scored" / "postprocessing.json").read_text() == file.read_text()  # the tuned rules stay
    assert tuned["tuned_threshold"]["threshold"] == contents["one_threshold"]["threshold"]
    assert tuned["tuned_threshold"]["macro_f"] <= tuned["oracle_thresholds"]["macro_f"]
    for way in ("before", "after"):
        mean = np.mean([f[f"f_{way}"] for f in contents["held_out"].values()])
        assert contents["held_out_total"][way]["macro_f"] == pytest.approx(mean)


class Held:
    """A data set whose four development recordings are all in fold 1, after one clip to train on."""

    directory, fold = "held", np.array([2, 1, 1, 1, 1])

    def read(self, split):
        assert split == "development"
        return self

    def __len__(self):
        return len(self.fold)

    def recordings(self, split):
        assert split == "development"
        return [Recording(f"{name}.wav", "home", ()) for name in "xabcd"]


def tune_by_hand(tmp_path, monkeypatch, dataset):
    """Tunes two events on constructed scores; returns the JSON and what is printed.

    `hum` is perfect in every recording. `bell` is the example of `test_cross_fit`: inactive and active frames have 0.1 and 0.3
    in a and b, 0.3 and 0.6 in c and d.
    """
    recordings = {}
    for name, low, high, frames in (("a", 0.1, 0.3, 100), ("b", 0.1, 0.3, 100), ("c", 0.3, 0.6, 100), ("d", 0.3, 0.6, 300)):
        active = np.repeat([False, True], frames)
        bell, hum = (np.repeat(np.array(pair, np.float32), frames) for pair in ((low, high), (0.1, 0.9)))
        recordings[f"{name}.wav"] = np.stack([bell, hum], 1), np.stack([active, active], 1)
    model = types.SimpleNamespace(events=("bell", "hum"), mel=types.SimpleNamespace(hop_s=HOP_S), step=7)
    monkeypatch.setattr(tune, "_load_model", lambda *_: model)
    monkeypatch.setattr(clip_scores, "compute_recording_probabilities", lambda *_: recordings)
    config = types.SimpleNamespace(validation="fold1", threshold=0.5, tune="frame")
    printed = io.StringIO()
    tune.tune(config, dataset, tmp_path, rich.console.Console(file=printed, width=200))
    return json.loads((tmp_path / "postprocessing.json").read_text()), printed.getvalue()


def test_the_cross_fitted_f_is_reported(tmp_path, monkeypatch):
    contents, printed = tune_by_hand(tmp_path, monkeypatch, Held())
    # TP of bell and hum: 400 and 600 both ways. 2 TP + FP + FN of hum is 1200; of bell 1000, and 1400 when cross-fitted.
    assert contents["held_out_total"]["after"] == pytest.approx({"micro_f": 100 * 2000 / 2200, "macro_f": (80 + 100) / 2})
    # At 0.6, 400 of 600 active frames of bell are detected, and nothing else; at 0.3, all 600 and 400 inactive ones, F 75 %.
    one = contents["one_threshold"]
    assert one["threshold"] == pytest.approx(0.6, abs=0.002) and one["macro_f"] == pytest.approx((100 + 80) / 2)
    assert "one threshold for all events, without filters: 0.598, mean F 90.00 of frames, on the recordings it was" in printed
    cross_fitted = contents["cross_fitted"]
    assert cross_fitted["class_f"] == pytest.approx({"bell": 100 * 800 / 1400, "hum": 100.0})
    assert cross_fitted["micro_f"] == pytest.approx(100 * 2000 / 2600)
    assert cross_fitted["macro_f"] == pytest.approx((100 * 800 / 1400 + 100) / 2)
    assert cross_fitted["recordings"] == [1, 1, 1, 1] and "checkpoint was chosen on all of them" in cross_fitted["checkpoint"]
    assert "cross_fitted_missing" not in contents
    lines = printed.splitlines()
    (micro,), (macro,) = ([line.split() for line in lines if name in line] for name in ("micro F", "macro F"))
    assert [cell for cell in micro if "." in cell] == ["90.91", "90.91", "76.92"]
    assert [cell for cell in macro if "." in cell] == ["90.00", "90.00", "78.57"]
    assert "after: on the recordings it was chosen on, so it is too high" in lines
    assert any(line.startswith("cross-fitted: ") and "best checkpoint" in line for line in lines)


def test_a_data_set_without_label_lists_has_no_cross_fitted_f(tmp_path, monkeypatch):
    class Older(Held):
        def recordings(self, split):
            raise InputError("held: prepared by an older version, without label lists; delete it and prepare again")

    contents, printed = tune_by_hand(tmp_path, monkeypatch, Older())
    assert contents["cross_fitted"] is None and contents["held_out_total"]["after"]["macro_f"] == 90
    assert "no cross-fitted F: held: prepared by an older version, without label lists; " in printed


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
        others = {"reference": None, "plot": False, "page": False, "clips": 0, "resume": False}
        monkeypatch.setattr("absl.flags.FLAGS", types.SimpleNamespace(**chosen, **others))
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
