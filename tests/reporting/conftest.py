"""Finished experiments that the tests of reports read."""

import pathlib

import pytest

from configs import default, table4
from mfl_jax.reporting import write_report
from support.finished_experiment import shrink_experiment, write_finished_experiment


@pytest.fixture(scope="session")
def homes(small_data, tmp_path_factory) -> dict[str, pathlib.Path]:
    """Work directories of experiments: the four systems; two alphas; cross-validation; a sweep of eta. Read-only."""
    root, dataset = small_data
    tmp = tmp_path_factory.mktemp("report")
    configs = {
        "table4": shrink_experiment(table4.get_config(), root),
        "figure2": shrink_experiment(default.experiment("figure2", []), root, alphas=(0.01, 1.0)),
        "sweep": shrink_experiment(default.experiment("sweep", []), root),
        "folds": shrink_experiment(default.experiment("folds", []), root, folds=True, seeds=1),
    }
    configs["figure2"].systems.update({"conventional_mtl": {}, "proposed": {"eta": 0.5}, "cnn_asc": {"tasks": ("scene",)}})
    configs["sweep"].systems.update({"conventional_mtl": {}, "proposed": {"eta": 0.5, "gamma": 1.0}})
    configs["sweep"].sweep.eta = (0, 0.5, 1)
    configs["folds"].systems.update({"proposed": {"eta": 0.5}})
    return {name: write_finished_experiment(config, dataset, tmp / name) for name, config in configs.items()}


@pytest.fixture(scope="session")
def reports(homes) -> dict[str, pathlib.Path]:
    """Work directories of `homes` with their reports written: the four systems; two alphas. Read-only."""
    for name in ("table4", "figure2"):
        write_report.write_report(homes[name])
    return homes
