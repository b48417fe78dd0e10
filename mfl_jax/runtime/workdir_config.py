"""The `config.json` that ties a work directory to one config, and the defaults that older runs get for newer fields."""

import copy
import json
import pathlib
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

from mfl_jax.errors import InputError, warn
from mfl_jax.runtime.storage import atomic_write

FILE = "config.json"
LOG = "metrics.jsonl"
"""The log of a run, one JSON object per complete epoch."""
MAY_CHANGE = (
    "data_dir", "manual_dir", "beam", "accelerator", "devices", "members_at_once", "epochs", "keep_every", "scores",
    "postprocess", "tune", "thresholds_from",
)  # fmt: skip
"""Fields that may change between two calls on one work directory: where the data are, which devices compute how much at once, how
long to train, and how to score the trained network. `epochs` may not fall below the epochs that are trained already.
"""
KEPT_FIELDS = ("mask_padding", "balance_learning_rate", "min_clip_share")
"""Fields whose default differs from their value in `ADDED_FIELDS`. A work directory of an older run keeps the
latter. Any other change is refused.
"""
ADDED_FIELDS: dict[str, Any] = {
    "balance": "fixed",
    "balance_learning_rate": 0.0,
    "compute": "float32",
    "scores": "frame",
    "postprocess": "none",
    "tune": "frame",
    "beam": "",
    "accelerator": "auto",
    "keep_every": 0,
    "mask_padding": False,
    "min_clip_share": 0.0,
    "scene_weight": 1.0,
    "active_weight": 1.0,
    "inactive_weight": 1.0,
    "optimiser": "radam",
    "thresholds_from": "",
    "learning_rate_decay": "none",
    "warmup_epochs": 0.0,
    "weight_decay": 0.0,
    "ema_decay": 0.0,
    "prior_bias": 0.0,
    "rare_event_sampling": 0.0,
    "loss_terms": {},
    "augmentations": {},
    "random_crops": 0.0,
}
"""Config fields added since the first release, each with the value that reproduces runs made before the field existed.

Whoever adds a field to configs/default.py adds it here. `audio.NAME` stands for a field of `config.audio`.
"""
OPEN_SECTIONS = ("loss_terms", "augmentations")
"""Sections with one weight per optional part of training. A weight that a stored config lacks is 0: the part was not there."""
ADDED_EXPERIMENT_FIELDS: dict[str, Any] = {"sweep.eta": [], "sweep.gamma": [], "sweep.zeta": []}
"""As `ADDED_FIELDS`, for fields that only experiments have."""


def to_plain_dict(config: Mapping) -> dict[str, Any]:
    """Returns the config as JSON represents it: tuples become lists."""
    return json.loads(json.dumps(config.to_dict() if hasattr(config, "to_dict") else dict(config)))


def fill_added_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a stored config with every field of `ADDED_FIELDS` that it lacks.

    Every config read from a work directory or a checkpoint passes through here.
    """
    filled = copy.deepcopy(dict(config))
    added = ADDED_FIELDS | (ADDED_EXPERIMENT_FIELDS if "systems" in config else {})
    for field, value in added.items():
        *parents, name = field.split(".")
        section = filled
        for parent in parents:
            section = section.setdefault(parent, {})
        section.setdefault(name, copy.deepcopy(value))
    return filled


def read_config(file: pathlib.Path) -> dict[str, Any]:
    """Reads a `config.json` of this or any earlier release, filled with `ADDED_FIELDS`.

    Raises:
      InputError: the file is not JSON.
    """
    try:
        return fill_added_fields(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise InputError(f"{file}: not readable ({error}); name another --workdir, or delete this one") from None


def missing_field_error(place: pathlib.Path, field: str) -> InputError:
    """Returns the error for a stored config without a field that this version needs."""
    return InputError(
        f"{place}: made before config.{field} existed; add {field!r}, with the value that reproduces older runs, to "
        "ADDED_FIELDS in mfl_jax/runtime/workdir_config.py"
    )


def _field_names(config: Mapping, prefix: str = "") -> Iterator[str]:
    """Yields the name of every field; fields of a section, such as `audio`, with a dot."""
    for name, value in config.items():
        # An experiment's systems are free-form overrides, not a section.
        if isinstance(value, Mapping) and prefix + name != "systems":
            yield from _field_names(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def missing_fields(stored: Mapping, current: Mapping) -> list[str]:
    """Returns the fields of `current` that `stored`, filled with `ADDED_FIELDS`, lacks."""
    present = set(_field_names(fill_added_fields(stored)))
    names = [name for name in _field_names(to_plain_dict(current)) if name.partition(".")[0] not in OPEN_SECTIONS]
    return [name for name in names if name not in present]


def _drop_zeros(config: MutableMapping[str, Any]) -> None:
    """Removes the zeros of `OPEN_SECTIONS`, which are equal to missing fields."""
    for section in OPEN_SECTIONS:
        if section in config:
            config[section] = {name: value for name, value in config[section].items() if value}


def check_workdir(workdir: pathlib.Path, config: MutableMapping) -> bool:
    """Checks that a work directory belongs to this config, up to the fields in `MAY_CHANGE`; sets `KEPT_FIELDS` of older runs.

    The config of an experiment may have more systems than the one in the work directory.

    Returns:
      Whether the work directory already has a config.

    Raises:
      InputError: fields differ (the message names them), the stored config lacks a field, or more epochs than `config.epochs` are
        trained already.
    """
    file = workdir / FILE
    if not file.is_file():
        return False
    stored, current = read_config(file), to_plain_dict(config)
    if missing := missing_fields(stored, current):
        raise missing_field_error(workdir, missing[0])
    for field in KEPT_FIELDS:
        if field in current and stored[field] == ADDED_FIELDS[field] != current[field]:
            warn(f"{workdir}: config.{field} stays {stored[field]!r}, as in the run so far")
            config[field] = current[field] = stored[field]
    _drop_zeros(stored)
    _drop_zeros(current)
    fields = sorted({*stored, *current} - set(MAY_CHANGE))
    if "systems" in stored and stored["systems"].items() <= current.get("systems", {}).items():
        fields.remove("systems")
    differing = [
        f"{field} was {stored.get(field)!r} and is {current.get(field)!r}"
        for field in fields
        if stored.get(field) != current.get(field)
    ]
    if differing:
        raise InputError(f"{workdir} belongs to a run with another config ({'; '.join(differing)}); name another --workdir")
    if (epochs := current.get("epochs", 0)) < stored.get("epochs", 0):
        refuse_fewer_epochs(workdir, epochs, _count_logged_epochs(workdir / LOG))
    return True


def _count_logged_epochs(log: pathlib.Path) -> int:
    return log.read_bytes().count(b"\n") if log.is_file() else 0


def refuse_fewer_epochs(workdir: pathlib.Path, epochs: int, trained: int) -> None:
    """Raises an InputError if a config asks for fewer epochs than are trained: the checkpoint would contradict it."""
    if epochs < trained:
        raise InputError(
            f"{workdir}: {trained} epochs are trained or begun already, but config.epochs is {epochs}; set config.epochs to "
            f"{trained} or more, or name another --workdir"
        )


def claim_workdir(workdir: pathlib.Path, config: MutableMapping) -> None:
    """Creates the work directory and writes `config.json`.

    Raises:
      InputError: the directory is not writable, or belongs to another config.
    """
    check_workdir(workdir, config)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        atomic_write(workdir / FILE, json.dumps(to_plain_dict(config), indent=1) + "\n")
    except OSError as error:
        raise InputError(f"{workdir}: not a folder to write to ({error.strerror})") from None
