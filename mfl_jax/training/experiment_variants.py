"""The variants of an experiment's systems: values of alpha, or of one focal parameter at a time."""

import collections
import math
from collections.abc import Mapping
from typing import Any

from mfl_jax.errors import InputError

FOCAL_TASKS = {"eta": "scene", "gamma": "event", "zeta": "event"}
"""Fields of `config.sweep` -> the task whose loss the field focuses."""


def check_variants(config: Mapping) -> None:
    """Checks `config.alphas` and `config.sweep` of an experiment.

    Raises:
      InputError: a value is invalid or given twice, both fields are set, or no system has the task and focal loss of a sweep.
    """
    if unknown := sorted(set(config["sweep"]) - set(FOCAL_TASKS)):
        raise InputError(f"config.sweep.{unknown[0]}: not a field to sweep; those are {', '.join(FOCAL_TASKS)}")
    _check_values("alphas", config["alphas"])
    for field in FOCAL_TASKS:
        values = config["sweep"][field]
        _check_values(f"sweep.{field}", values)
        if not values:
            continue
        if config["alphas"]:
            raise InputError(
                f"config.alphas and config.sweep.{field} are both set; vary one of them per experiment, each in its own --workdir"
            )
        if not any(_is_swept(_merge_fields(config, system), field) for system in config["systems"]):
            raise InputError(
                f"config.sweep.{field} is {values!r}, but no system has the {FOCAL_TASKS[field]} task and a focal loss; add one, "
                "such as that of configs/proposed.py"
            )


def _check_values(name: str, values: Any) -> None:
    def is_valid(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0

    # Names of runs show six digits.
    if not all(map(is_valid, values)) or len({f"{value:g}" for value in values}) < len(values):
        raise InputError(f"config.{name} is {values!r}; must be finite numbers >= 0, each once and different in six digits")


def _merge_fields(config: Mapping, system: str) -> Mapping[str, Any]:
    return collections.ChainMap(config["systems"].get(system, {}), config)  # type: ignore[arg-type]


def _is_swept(fields: Mapping[str, Any], field: str) -> bool:
    """Whether a system has the task of a focal parameter, and a focal loss."""
    own = [other for other, task in FOCAL_TASKS.items() if task in fields["tasks"]]
    return field in own and any(fields[other] for other in own)


def list_variants(config: Mapping, system: str) -> list[dict[str, float]]:
    """Lists the variants of a system.

    Args:
      config: of the experiment.
      system: its name.

    Returns:
      The fields that each variant sets. If the experiment varies alpha: alpha. Otherwise none for the system as configured, then
      one focal parameter each; the system's own value is left out.
    """
    fields = _merge_fields(config, system)
    if config["alphas"]:
        alphas = config["alphas"] if len(fields["tasks"]) == 2 else [fields["alpha"]]
        return [{"alpha": float(alpha)} for alpha in alphas]
    swept = [
        {field: float(value)}
        for field in FOCAL_TASKS
        if _is_swept(fields, field)
        for value in config["sweep"][field]
        if value != fields[field]
    ]
    return [{}, *swept]


def list_swept_systems(config: Mapping) -> dict[str, dict[str, float]]:
    """Lists what an experiment sweeps: field -> system that varies it -> the system's own value."""
    merged = {system: _merge_fields(config, system) for system in config["systems"]}
    return {
        field: {system: float(fields[field]) for system, fields in merged.items() if _is_swept(fields, field)}
        for field in FOCAL_TASKS
        if config["sweep"][field]
    }


def identify_variant(config: Mapping, system: str, run_config: Mapping) -> tuple[float | None, dict[str, float] | None]:
    """Identifies the variant of a system that a run belongs to.

    Args:
      config: of the experiment.
      system: name of the run's system.
      run_config: config of the run.

    Returns:
      Alpha where the experiment varies it for this system, and the focal parameter in which the run differs from its system.
    """
    fields = _merge_fields(config, system)
    if config["alphas"]:
        return (run_config["alpha"] if len(run_config["tasks"]) == 2 else None), None
    changed = {field: run_config[field] for field in FOCAL_TASKS if config["sweep"][field] and run_config[field] != fields[field]}
    return None, changed or None
