"""Acoustic scene classification and sound event detection by one network; `mfl_jax.load` opens a trained one."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from mfl_jax import version

__version__ = version.__version__

if TYPE_CHECKING:
    from mfl_jax.inference.trained_model import TrainedModel


def load(run_directory: str | pathlib.Path, *, step: int | None = None) -> TrainedModel:
    """Loads the model of a run; see `mfl_jax.inference.trained_model.load`."""
    # Imported here, so that `import mfl_jax` is fast.
    from mfl_jax.runtime import installation

    installation.check_system()
    from mfl_jax.inference import trained_model

    return trained_model.load(run_directory, step=step)
