"""The conditions of an experiment, shown beside its verdict: fields that depart from configs/default.py, commits and dates."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from mfl_jax.reporting import verdicts
from mfl_jax.runtime import config_fields, history, workdir_config

DESCRIPTIVE = ("name", "note", "systems")
"""Fields that describe or define an experiment rather than depart from the default."""
WITHOUT_EFFECT = {*DESCRIPTIVE, *workdir_config.MAY_CHANGE, "alphas", "sweep.eta", "sweep.gamma", "sweep.zeta"} - {"epochs"}
"""Fields that leave the conditions of the paper's scores as they are: where and how fast to compute, and what else to compute."""


def describe_conditions(home: pathlib.Path, config: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Describes the conditions of an experiment.

    Args:
      home: its work directory.
      config: its config, as `workdir_config.read_config` returns it.
      runs: its finished runs, as `summary.read_finished_runs` returns them.

    Returns:
      {"departures": field -> {"here", "default"}, "systems": system -> its own fields, "epochs", "commits": of the runs, with "+"
      after a commit if tracked files differed from it, "dates": first and last start (UTC), "caveat": how the conditions differ
      from the paper's, or ""}.
    """
    departures = find_departures(config)
    return {
        "departures": departures,
        "systems": {name: dict(fields) for name, fields in config["systems"].items()},
        "epochs": config["epochs"],
        "commits": list(dict.fromkeys(_name_commit(run.get("code")) for run in runs)),
        "dates": _read_dates(home),
        "caveat": _write_caveat(departures),
    }


def find_departures(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Finds the fields of an experiment that depart from configs/default.py.

    Args:
      config: as `workdir_config.read_config` returns it.

    Returns:
      Field -> {"here", "default"}.
    """
    default = _flatten(workdir_config.to_plain_dict(config_fields.all_defaults()))
    here = _flatten(config)
    return {
        field: {"here": here.get(field), "default": default.get(field)}
        for field in sorted({*here, *default})
        if field not in DESCRIPTIVE and here.get(field) != default.get(field)
    }


def _flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """Joins the names of sections and their fields with a dot."""
    fields: dict[str, Any] = {}
    for name, value in config.items():
        is_section = isinstance(value, Mapping) and name != "systems"
        fields |= {f"{name}.{field}": inner for field, inner in _flatten(value).items()} if is_section else {name: value}
    return fields


def _name_commit(code: Mapping[str, Any] | None) -> str:
    return "unknown" if not code else code["commit"][:12] + ("+" if code["changed"] else "")


def _read_dates(home: pathlib.Path) -> list[str]:
    """Reads the dates of the first and the last start; none of runs that were started before starts were dated."""
    file = home / history.FILE
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    dates = sorted(record["started"][:10] for line in lines if "started" in (record := json.loads(line)))
    return list(dict.fromkeys([*dates[:1], *dates[-1:]]))


def _write_caveat(departures: Mapping[str, Any]) -> str:
    unused = set() if "balance" in departures else {"balance_learning_rate"}
    differing = list(dict.fromkeys(field.partition(".")[0] for field in departures if field not in WITHOUT_EFFECT | unused))
    if not differing:
        return ""
    verb = "differs" if len(differing) == 1 else "differ"
    return (
        f"The conditions are not the paper's: {verdicts.join_names(differing)} {verb}. "
        "This result therefore neither confirms nor refutes the paper's own."
    )
