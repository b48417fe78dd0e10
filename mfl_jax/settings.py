"""What a run is told: checks of its config, and the `config.json` that ties a work directory to one config."""

import contextlib
import importlib.util
import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping

from etils import epath

from mfl_jax.balancing import BALANCES
from mfl_jax.errors import InputError
from mfl_jax.losses import REDUCTIONS
from mfl_jax.models import TASKS

VALIDATIONS = ("none", "fold1", "fold2", "fold3", "fold4")
PRECISIONS = ("default", "high", "highest")
COMPUTE = ("float32", "bfloat16")
# What may change between two calls on one work directory: where the data lie, what runs the work, how far it goes, and what is
# asked of the trained network.
FREE = (
    "data_dir", "manual_dir", "beam", "accelerator", "devices", "epochs", "keep_every", "scores", "postprocess", "tune",
)  # fmt: skip
ACCELERATORS = ("auto", "cpu", "gpu", "tpu")
SCORES = ("frame", "segment", "event", "psds")
POSTPROCESSES = ("none", "tuned")
TUNED_SCORES = ("frame", "segment")


def check_config(config: Mapping) -> None:
    """Raises an InputError that names the first field whose value makes no sense."""

    def require(field, holds, what):
        if not holds:
            raise InputError(f"config.{field} is {config[field]!r}; {what}")

    for field in ("epochs", "batch_size", "channels", "hidden"):
        require(field, config[field] >= 1, "it is at least 1")
    for field in ("alpha", "beta", "gamma", "zeta", "eta", "slope"):
        require(field, math.isfinite(config[field]) and config[field] >= 0, "it is a number from 0 up")
    require("learning_rate", math.isfinite(config["learning_rate"]) and config["learning_rate"] > 0, "it is above 0")
    require("dropout", 0 <= config["dropout"] < 1, "it is a share below 1")
    require("threshold", 0 < config["threshold"] < 1, "it is a probability between 0 and 1")
    require("reduction", config["reduction"] in REDUCTIONS, f"it is one of {', '.join(REDUCTIONS)}")
    require("balance", config["balance"] in BALANCES, f"it is one of {', '.join(BALANCES)}")
    require(
        "balance", config["balance"] == "fixed" or len(config["tasks"]) == 2, "there is nothing to balance with a single task"
    )
    require("validation", config["validation"] in VALIDATIONS, f"it is one of {', '.join(VALIDATIONS)}")
    require("matmul_precision", config["matmul_precision"] in PRECISIONS, f"it is one of {', '.join(PRECISIONS)}")
    require("compute", config["compute"] in COMPUTE, f"it is one of {', '.join(COMPUTE)}")
    require("tasks", config["tasks"] and not set(config["tasks"]) - set(TASKS), f"it is one or both of {TASKS}")
    require("seed", 0 <= config["seed"] < 2**32, "it is a whole number from 0 to 4294967295")
    require("devices", config["devices"] >= 0, "it is a number of devices, 0 for all")
    require("accelerator", config["accelerator"] in ACCELERATORS, f"it is one of {', '.join(ACCELERATORS)}")
    require("keep_every", config["keep_every"] >= 0, "it is a number of epochs, 0 for none")
    require("scores", set(scores_of(config)) <= set(SCORES), f"it is some of {', '.join(SCORES)}, with commas between them")
    require("postprocess", config["postprocess"] in POSTPROCESSES, f"it is one of {', '.join(POSTPROCESSES)}")
    require("tune", config["tune"] in TUNED_SCORES, f"it is one of {', '.join(TUNED_SCORES)}")


def scores_of(config: Mapping) -> list[str]:
    """The kinds of scores that a config asks for."""
    return [kind.strip() for kind in config["scores"].split(",") if kind.strip()]


def plain(config: Mapping) -> dict:
    """The config as JSON holds it."""
    return json.loads(json.dumps(config.to_dict() if hasattr(config, "to_dict") else dict(config)))


def expanded(path: str | pathlib.Path) -> pathlib.Path:
    """A path with the home directory that it may name by `~`.

    Raises:
      InputError: there is no such home directory.
    """
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError:
        raise InputError(f"{path}: there is no such home directory") from None


def folder(name: str | pathlib.Path) -> pathlib.Path:
    """The folder that a user names, here or, by gs://BUCKET/NAME, in an object store (pip install gcsfs).

    Raises:
      InputError: there is no such home directory, or no package for such a store.
    """
    if not is_remote(name):
        return expanded(name)
    if not importlib.util.find_spec("gcsfs") and not importlib.util.find_spec("tensorflow"):
        raise InputError(f"{name}: gs:// needs a package more: pip install -e '.[gcs]'")
    return epath.Path(name)


def is_remote(name: str | os.PathLike) -> bool:
    """Whether a place is in an object store, where each file appears whole or not at all, and none can be appended to."""
    return os.fspath(name).startswith("gs://")


@contextlib.contextmanager
def aside(file: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the name to write a file under; it is renamed at the end, so that the file is there whole or not at all."""
    part = file.with_name(f"{file.name[:40]}.part{os.getpid()}")  # no longer than the system takes
    try:
        yield part
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def write_whole(file: pathlib.Path, content: str | bytes) -> None:
    """Writes a file, whole or not at all."""
    content = content.encode() if isinstance(content, str) else content
    if is_remote(file):
        file.write_bytes(content)
        return
    with aside(file) as part:
        part.write_bytes(content)


def check_workdir(workdir: pathlib.Path, config: Mapping) -> bool:
    """Checks that a work directory belongs to this very config, but for the fields in `FREE`.

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
    now = plain(config)
    keys = sorted({*before, *now} - set(FREE))
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
        write_whole(workdir / "config.json", json.dumps(plain(config), indent=1) + "\n")
    except OSError as error:
        raise InputError(f"{workdir}: not a folder to write to ({error.strerror})") from None
