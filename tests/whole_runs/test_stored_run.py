"""A run of commit 8e568e2, kept in tests/data/run_8e568e2: this version loads, evaluates, predicts with and resumes it."""

import json
import pathlib
import shutil
from collections.abc import Iterator

import numpy as np
import pytest
import rich.console
from ml_collections import ConfigDict

import mfl_jax
from configs import default, proposed
from mfl_jax.data import prepare
from mfl_jax.inference import writers
from mfl_jax.runtime import workdir_config
from mfl_jax.scoring import evaluate_run
from mfl_jax.training import loop
from support import TESTS

STORED = TESTS / "data" / "run_8e568e2"
EXPECTED = STORED / "expected"
QUIET = rich.console.Console(quiet=True)


@pytest.fixture
def stored(tmp_path) -> pathlib.Path:
    """A copy of the stored run and its data."""
    return shutil.copytree(STORED, tmp_path / "stored")


def config_of_today(stored: pathlib.Path, **fields) -> ConfigDict:
    """The config that today's version of the stored run's command makes: only the flags given then are set."""
    config = proposed.get_config()
    command = json.loads((stored / "run" / "history.jsonl").read_text().splitlines()[0])["command"]
    flags = [flag.removeprefix("--config.").split("=") for flag in command if flag.startswith("--config.")]
    for name, text in flags:
        section, _, field = name.rpartition(".")
        target = config[section] if section else config
        target[field] = type(target[field])(text)
    config.update({"data_dir": str(stored / "data"), **fields})
    return config


def read_json(file: pathlib.Path):
    return json.loads(file.read_text(encoding="utf-8"))


def read_json_lines(file: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def flatten(tree, path: str = "") -> Iterator[tuple[str, object]]:
    """Yields (path, leaf) of nested JSON."""
    if isinstance(tree, dict | list):
        for key, branch in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from flatten(branch, f"{path}/{key}")
    else:
        yield path, tree


def assert_close(got, want, **tolerance: float) -> None:
    """Compares nested JSON: floats to a tolerance, all else exactly; `got` may hold more."""
    got = dict(flatten(got))
    for path, leaf in flatten(want):
        assert got[path] == (pytest.approx(leaf, **tolerance) if isinstance(leaf, float) else leaf), path


def assert_same_scores(got: dict, want: dict) -> None:
    """Compares two results.json; a frame at the threshold may fall on either side on another machine or version of JAX."""
    for key in ("system", "dataset", "split", "clips", "scenes", "events", "threshold", "checkpoint", "seed", "fingerprint"):
        assert got[key] == want[key], key
    assert got["counts"]["scene"] == want["counts"]["scene"]
    assert_close(got["scene"], want["scene"], abs=1e-6)
    assert_close(got["event"], want["event"], abs=0.5)
    assert_close(got["floors"], want["floors"], abs=1e-6)


def test_the_model_loads_and_predicts_what_it_did(stored, tmp_path):
    model = mfl_jax.load(stored / "run")
    assert (model.step, model.which, model.scenes, model.events) == (15, "last", ("busy", "calm"), ("high", "low"))
    prediction = model.predict(stored / "evaluation_1.wav")
    writers.FORMATS["scores"][0](prediction, tmp_path / "scores.tsv")
    got, want = (np.loadtxt(file, skiprows=1) for file in (tmp_path / "scores.tsv", EXPECTED / "scores.tsv"))
    np.testing.assert_allclose(got, want, atol=1e-4)
    writers.FORMATS["json"][0](prediction, tmp_path / "prediction.json")
    assert_close(read_json(tmp_path / "prediction.json"), read_json(EXPECTED / "prediction.json"), abs=1e-4)


@pytest.mark.ci_only
def test_evaluation_reproduces_its_scores(stored):
    config = config_of_today(stored)
    before = read_json(stored / "run" / "results.json")
    (stored / "run" / "results.json").unlink()
    evaluate_run.evaluate_run(config, prepare.prepare_from_config(config), stored / "run", QUIET)
    after = read_json(stored / "run" / "results.json")
    assert set(after) >= set(before)
    assert_same_scores(after, before)


@pytest.mark.ci_only
def test_training_resumes(stored):
    config = config_of_today(stored, epochs=4)
    dataset = prepare.prepare_from_config(config)
    assert loop.train(config, dataset, stored / "run", QUIET)
    got, want = (read_json_lines(folder / "metrics.jsonl") for folder in (stored / "run", EXPECTED))
    assert got[:3] == want[:3]  # copied, not computed again
    assert (got[3]["epoch"], got[3]["step"], len(got)) == (4, 20, 4)
    for kind, tolerance in (("loss", {"rel": 1e-3}), ("micro_f", {"abs": 1.0}), ("macro_f", {"abs": 1.0})):
        for task in ("scene", "event"):
            assert got[3]["train"][task][kind] == pytest.approx(want[3]["train"][task][kind], **tolerance)
    assert got[3]["train"]["loss"] == pytest.approx(want[3]["train"]["loss"], rel=1e-3)
    # The version of the stored run did not log it.
    assert 0 < got[3]["train"]["event"]["loss_multiplier_active"] < 1
    evaluate_run.evaluate_run(config, dataset, stored / "run", QUIET)
    assert_same_scores(read_json(stored / "run" / "results.json"), read_json(EXPECTED / "results_after_epoch_4.json"))


def test_every_config_field_is_stored_or_has_a_value_for_older_runs():
    """Whoever adds a field to configs/default.py adds it to ADDED_FIELDS, so that older runs stay usable."""
    missing = workdir_config.missing_fields(read_json(STORED / "run" / "config.json"), default.get_config())
    assert not missing, f"add {missing} to ADDED_FIELDS in mfl_jax/runtime/workdir_config.py"
    unknown = set(workdir_config.ADDED_FIELDS) - set(default.get_config())
    assert not unknown, f"ADDED_FIELDS holds {unknown}, which configs/default.py does not"
