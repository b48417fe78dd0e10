"""Writes a trained model into a folder: its program, model.json and a model card."""

import json
import pathlib

from mfl_jax.errors import InputError, warn
from mfl_jax.exporting import program as programs
from mfl_jax.exporting.description import describe_model
from mfl_jax.exporting.formats import FILES, PACKAGES, require_package
from mfl_jax.exporting.model_card import build_model_card, read_results
from mfl_jax.inference import trained_model
from mfl_jax.runtime import storage

WARN_ABOVE = 1e-3
"""Warn if the program differs from the model by more than this in any probability."""


def export_model(checkpoint: str | pathlib.Path, form: str, out: str | pathlib.Path | None = None) -> pathlib.Path:
    """Writes the program of a trained model, model.json and the model card README.md into a folder.

    Args:
      checkpoint: a run or one of its checkpoints, as for `mfl_jax.load`.
      form: a key of `FILES`.
      out: the folder to write to; `export/<form>` in the folder of the run by default.

    Returns:
      The folder.

    Raises:
      InputError: no such checkpoint, a package is missing, or the folder is not writable.
    """
    for package in PACKAGES[form]:
        require_package(package)
    model = trained_model.load(checkpoint)
    card = build_model_card(model, read_results(model), form)
    description, program = describe_model(model, form), programs.build_program(model, form)
    difference = programs.measure_difference(model, program, form)
    if not difference < WARN_ABOVE:
        warn(f"probabilities of the exported model differ from the model's by up to {difference:.2g}")
    folder = model.directory / "export" / form if out is None else storage.expand_path(out)
    description["largest_difference"] = difference
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with storage.atomic_path(folder / FILES[form]) as part:
            part.write_bytes(program)
        storage.atomic_write(folder / "model.json", json.dumps(description, indent=1) + "\n")
        storage.atomic_write(folder / "README.md", card)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to ({error.strerror})") from None
    return folder
