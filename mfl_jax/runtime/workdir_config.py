"""The `config.json` that ties a work directory to one config."""

import json
import pathlib
from collections.abc import Mapping

from mfl_jax.errors import InputError
from mfl_jax.runtime.storage import atomic_write

# What may change between two calls on one work directory: where the data lie, what runs the work, how far it goes, and what is
# asked of the trained network.
MAY_CHANGE = (
    "data_dir", "manual_dir", "beam", "accelerator", "devices", "epochs", "keep_every", "scores", "postprocess", "tune",
)  # fmt: skip


def to_plain_dict(config: Mapping) -> dict:
    """The config as JSON holds it."""
    return json.loads(json.dumps(config.to_dict() if hasattr(config, "to_dict") else dict(config)))


def check_workdir(workdir: pathlib.Path, config: Mapping) -> bool:
    """Checks that a work directory belongs to this very config, but for the fields in `MAY_CHANGE`.

    Returns:
      Whether it belongs to any config yet.

    Raises:
      InputError: names the fields that differ.
    """
    file = workdir / "config.json"
    if not file.is_file():
        return False
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file}: not readable ({error}); name another --workdir, or delete this one") from None
    now = to_plain_dict(config)
    keys = sorted({*before, *now} - set(MAY_CHANGE))
    differing = [f"{key} was {before.get(key)!r} and is {now.get(key)!r}" for key in keys if before.get(key) != now.get(key)]
    if differing:
        raise InputError(f"{workdir} belongs to a run of another config ({'; '.join(differing)}); name another --workdir")
    return True


def claim_workdir(workdir: pathlib.Path, config: Mapping) -> None:
    """Makes the work directory and writes `config.json`.

    Raises:
      InputError: it can't be made, or belongs to another config.
    """
    check_workdir(workdir, config)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        atomic_write(workdir / "config.json", json.dumps(to_plain_dict(config), indent=1) + "\n")
    except OSError as error:
        raise InputError(f"{workdir}: not a folder to write to ({error.strerror})") from None
