"""Small trained runs that several test modules read; fixtures of conftest.py make each once."""

import math
import pathlib
import shutil
from unittest import mock

from mfl_jax.data import prepared_dataset
from mfl_jax.data.prepared_dataset import Dataset
from mfl_jax.scoring import evaluate_run
from mfl_jax.training import epoch, loop
from support import small

LONGER = 15
"""Epochs of `evaluated_run`."""


def trained_run(root: pathlib.Path, dataset: Dataset, workdir: pathlib.Path) -> pathlib.Path:
    """Trains `small_config` for both tasks, in seconds.

    Args:
      root: folder of the `recordings` and the prepared `data`.
      dataset: from `small_dataset`.
      workdir: of the run.

    Returns:
      `workdir`, with the checkpoints of the last two of its epochs.
    """
    workdir.mkdir()
    with mock.patch.object(epoch, "CHECKPOINT_SHARE", math.inf):  # otherwise such short epochs have none
        loop.train(small.small_config(root), dataset, workdir)
    return workdir


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
