"""Small experiments from training to the report: of scenes alone in cross-validation, of events alone on the evaluation split.

Their label lists name only what they train.
"""

import json
import shutil

import numpy as np
import pytest

from configs import default
from mfl_jax import experiment
from mfl_jax.errors import InputError
from support import small
from support.finished_experiment import shrink_experiment, write_finished_experiment

pytestmark = pytest.mark.lightly_optimised


def read_json(file):
    return json.loads(file.read_text())


def run_experiment(root, home, systems, **fields):
    config = shrink_experiment(default.experiment(home.name, []), root, members_at_once=4, **{"epochs": 1, **fields})
    config.systems.update(systems)
    assert experiment.run(config, home)
    return home, read_json(home / "results.json")


def prepare_stripped(small_data, folder, keep):
    """Prepares the small recordings in a folder, with scenes or events alone in the label lists."""
    shutil.copytree(small_data[0] / "recordings", folder / "recordings")
    for file in (folder / "recordings" / "meta").iterdir():
        rows = [row.split("\t") for row in file.read_text().splitlines()[1:]]
        stripped = [[path, scene, "", "", ""] if keep == "scenes" else [path, "", *event] for path, scene, *event in rows]
        file.write_text(small.HEADER + "".join("\t".join(row) + "\n" for row in stripped))
    return small.prepare_small(folder / "data", folder / "recordings")


@pytest.mark.ci_only
def test_cross_validation_scores_every_development_clip_once(small_data, tmp_path):
    assert prepare_stripped(small_data, tmp_path, "scenes").events == ()
    home, results = run_experiment(tmp_path, tmp_path / "folds", {"cnn_asc": {"tasks": ("scene",)}}, folds=True, seeds=1)
    assert results["split"] == "development, four folds pooled" and results["runs"] == {"complete": 4, "planned": 4}
    runs = [read_json(home / "members" / f"cnn_asc-fold{fold}-seed0" / "results.json") for fold in (1, 2, 3, 4)]
    (row,) = results["rows"]
    assert row["scene"]["confusion"] == np.sum([run["scene"]["confusion"] for run in runs], axis=0).tolist()
    # Each clip by the fold that did not train on it.
    clips = sum(results["data"]["development"]["clips"])
    assert np.sum(row["scene"]["confusion"]) == clips
    assert [run["training"]["clips"] + run["clips"] for run in runs] == [clips] * 4
    assert (home / "report.html").is_file() and not (home / "groups").exists()


@pytest.mark.ci_only
def test_runs_of_two_seeds_are_averaged_and_scored_at_thresholds_of_folds(small_data, tmp_path):
    assert prepare_stripped(small_data, tmp_path, "events").scenes == ()
    systems = {"cnn_bigru_sed": {"tasks": ("event",), "prior_bias": 1.0}}
    folds, _ = run_experiment(tmp_path, tmp_path / "folds", systems, folds=True, seeds=1)
    home, results = run_experiment(tmp_path, tmp_path / "events", systems, thresholds_from=str(folds))
    assert results["split"] == "evaluation" and results["runs"] == {"complete": 2, "planned": 2}
    runs = [read_json(home / "members" / f"cnn_bigru_sed-seed{seed}" / "results.json") for seed in (0, 1)]
    (row,) = results["rows"]
    assert "scene" not in row and row["event"]["micro_f"]["values"] == [run["event"]["micro_f"] for run in runs]
    of_folds = [run["event_probabilities"]["fold_thresholds"]["by_event"]["macro_f"] for run in runs]
    assert row["event_figures"]["class_thresholds_macro_f"]["values"] == of_folds
    rules = (folds / "thresholds" / "cnn_bigru_sed.json").read_text()
    assert (home / "members" / "cnn_bigru_sed-seed0" / "postprocessing.json").read_text() == rules
    assert {path.suffix for path in (home / "figures").iterdir()} == {".png", ".svg"} and (home / "report.html").is_file()


SYSTEMS = {
    "focal": {"tasks": ("event",), "gamma": 1.0, "zeta": 0.0625},
    "flat": {"tasks": ("event",), "weights_from": "focal"},
}


@pytest.mark.ci_only
def test_constant_weights_are_the_mean_multipliers_of_the_other_system(small_data, tmp_path):
    prepare_stripped(small_data, tmp_path, "events")
    home, results = run_experiment(tmp_path, tmp_path / "flat", SYSTEMS, epochs=2)
    assert results["runs"] == {"complete": 4, "planned": 4}

    def read_multipliers(system, cells):
        files = [home / "members" / f"{system}-seed{seed}" / "metrics.jsonl" for seed in (0, 1)]
        return [
            json.loads(line)["train"]["event"][f"loss_multiplier_{cells}"]
            for file in files
            for line in file.read_text().splitlines()
        ]

    configs = [read_json(home / "members" / f"flat-seed{seed}" / "config.json") for seed in (0, 1)]
    for cells in ("active", "inactive"):
        source = read_multipliers("focal", cells)
        assert len(source) == 4 and max(source) < 0.99
        for config in configs:
            assert config[f"{cells}_weight"] == pytest.approx(np.mean(source), rel=1e-12)
        assert read_multipliers("flat", cells) == pytest.approx(4 * [np.mean(source)], rel=1e-5)
    assert configs[0]["scene_weight"] == 1.0
    # A resumed run keeps its weights.
    before = {file: file.read_bytes() for file in home.glob("members/*/config.json")}
    scores = read_json(home / "members" / "flat-seed0" / "results.json")
    for seed in (0, 1):
        (home / "members" / f"flat-seed{seed}" / "results.json").unlink()
        log = home / "members" / f"focal-seed{seed}" / "metrics.jsonl"
        log.write_text(log.read_text().splitlines()[0] + "\n")  # the mean over its epochs would be another
    run_experiment(tmp_path, home, SYSTEMS, epochs=2)
    assert {file: file.read_bytes() for file in home.glob("members/*/config.json")} == before
    assert read_json(home / "members" / "flat-seed0" / "results.json") == scores


def test_fewer_epochs_than_the_runs_have_are_refused(small_data, tmp_path):
    root, dataset = small_data
    config = shrink_experiment(default.experiment("short", []), root)
    config.systems.update({"cnn_bigru_sed": {"tasks": ("event",)}})
    home = write_finished_experiment(config, dataset, tmp_path / "short")
    before = {file: file.read_bytes() for file in home.rglob("*.json")}
    config.epochs = 1
    with pytest.raises(InputError, match=r"cnn_bigru_sed-seed0: 2 epochs are trained .* but config\.epochs is 1"):
        experiment.run(config, home)
    assert {file: file.read_bytes() for file in home.rglob("*.json")} == before
