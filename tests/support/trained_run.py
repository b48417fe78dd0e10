"""Small trained runs that several test modules read; fixtures of conftest.py make each once."""

import pathlib
import shutil

from mfl_jax.data import prepared_dataset
from mfl_jax.scoring import evaluate_run
from mfl_jax.training import loop
from support import small

LONGER = 15
"""Epochs of `evaluated_run`."""


def trained_run(tmp: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Trains `small_config` for both tasks on `small_dataset`, in seconds.

    Returns:
      The folder of the run, and `tmp`, which holds the folders `recordings` and `data`.
    """
    dataset = small.small_dataset(tmp)
    workdir = tmp / "run"
    workdir.mkdir()
    loop.train(small.small_config(tmp), dataset, workdir)
    return workdir, tmp


def evaluated_run(trained: pathlib.Path, root: pathlib.Path, workdir: pathlib.Path) -> pathlib.Path:
    """Trains a copy of `trained_run` to `LONGER` epochs, so that its answers vary, and scores it.

    Returns:
      The folder of the run, with results.json.
    """
    shutil.copytree(trained, workdir)
    config = small.small_config(root, epochs=LONGER)
    dataset = prepared_dataset.open_dataset(config.dataset, root / "data")
    loop.train(config, dataset, workdir)
    evaluate_run.evaluate_run(config, dataset, workdir)
    return workdir
