"""One small trained run that several test modules read; the fixture `trained_run` of conftest.py makes it once."""

import pathlib

from mfl_jax.training import loop
from support import small


def trained_run(tmp: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Trains `small_config` for both tasks on `small_dataset`, in seconds.

    Returns:
      The folder of the run, with its checkpoints; and `tmp`, with `recordings` as they were written and `data` as prepared.
    """
    dataset = small.small_dataset(tmp)
    workdir = tmp / "run"
    workdir.mkdir()
    loop.train(small.small_config(tmp), dataset, workdir)
    return workdir, tmp
