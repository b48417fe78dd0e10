"""The runs of an experiment, systems x variants x folds x seeds, and which of them train at once."""

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence

from ml_collections import ConfigDict

from mfl_jax.data.folds import FOLDS
from mfl_jax.errors import InputError
from mfl_jax.runtime import workdir_config
from mfl_jax.training import config_checks, experiment_variants
from mfl_jax.training.run_group import Member

EXPERIMENT_FIELDS = ("systems", "seeds", "alphas", "sweep", "folds", "members_at_once")
"""The fields that an experiment's config has beyond those of a run."""
DATA_FIELDS = ("dataset", "data_dir", "manual_dir", "beam", "audio", "min_clip_share")
"""Fields that decide which clips runs are trained and scored on; the same for all systems, so that they can be compared."""
FOCUS = tuple(experiment_variants.FOCAL_TASKS)
"""Focusing parameters; the losses are plain where all are 0."""
WEIGHTS_FROM = "weights_from"
"""Key of a system that names the system its constant weights come from; not a config field."""


def expand_members(config: ConfigDict) -> list[Member]:
    """Returns the runs of an experiment; runs that can train at once are adjacent, those with weights from others come last.

    Raises:
      InputError: a field is invalid, or a system sets an unknown field or can't take its weights from the one it names.
    """
    _check_experiment_fields(config)
    members = [member for system in config.systems for member in _expand_system(config, system)]
    first_runs = {member.system: member for member in reversed(members)}
    for member in first_runs.values():
        if member.weights_from:
            _check_weights_from(member, first_runs)
    group_order = {group: number for number, group in enumerate(dict.fromkeys(member.group for member in members))}
    return sorted(members, key=lambda member: (bool(member.weights_from), group_order[member.group]))


def _check_experiment_fields(config: ConfigDict) -> None:
    def require(field: str, valid: bool, rule: str) -> None:
        if not valid:
            raise InputError(f"config.{field} is {config[field]!r}; {rule}")

    require("seeds", config.seeds >= 1, "must be >= 1")
    require("members_at_once", config.members_at_once >= 0, "must be a number of runs, or 0 for as many as fit")
    require("validation", config.validation == "none", "must be none: an experiment reports the last epoch, as the paper does")
    if config.thresholds_from:
        varied = bool(config.alphas) or any(config.sweep.values())
        require("thresholds_from", not config.folds, "must be empty with config.folds, which gives thresholds itself")
        require("thresholds_from", not varied, "must be empty with config.alphas and config.sweep: a system has one file")
    require("systems", bool(config.systems), "an experiment needs at least one system")
    experiment_variants.check_variants(config)


def _expand_system(config: ConfigDict, system: str) -> Iterator[Member]:
    """Yields the runs of one system."""
    changes = config.systems[system].to_dict()
    weights_from = changes.pop(WEIGHTS_FROM, "")
    fields = {field: value for field, value in config.to_dict().items() if field not in EXPERIMENT_FIELDS}
    if unknown := sorted(set(changes) - set(fields)):
        raise InputError(f"config.systems.{system} sets {unknown[0]!r}, which is not a config field")
    for field in DATA_FIELDS:
        if field in changes and changes[field] != config[field]:
            raise InputError(
                f"config.systems.{system} sets {field!r}, but all systems of an experiment have the same data; set config.{field}"
            )
    base = {**fields, **changes, "name": system, "note": ""}
    for variant in experiment_variants.list_variants(config, system):
        for fold in range(1, FOLDS + 1) if config.folds else [0]:
            for seed in range(config.seed, config.seed + config.seeds):
                member_config = ConfigDict({**base, "alpha": float(base["alpha"]), **variant, "seed": seed})
                config_checks.check_config(member_config)
                parts = [system, *(f"{field}{value:g}" for field, value in variant.items()), *([f"fold{fold}"] if fold else [])]
                yield Member("-".join([*parts, f"seed{seed}"]), system, member_config, fold, weights_from)


def _check_weights_from(member: Member, first_runs: Mapping[str, Member]) -> None:
    """Checks that a system with weights from another one differs from it only in the focusing parameters.

    Args:
      member: first run of the system.
      first_runs: of all systems.
    """
    place = f"config.systems.{member.system}.{WEIGHTS_FROM} is {member.weights_from!r}"
    source = first_runs.get(member.weights_from)
    if source is None or source is member or source.weights_from:
        names = [name for name, run in first_runs.items() if not run.weights_from]
        raise InputError(
            f"{place}; must be a system of this experiment with weights of its own: {', '.join(names) or 'none here'}"
        )
    for field in FOCUS:
        if member.config[field] != 0:
            raise InputError(f"{place}, so the losses must be plain, but its {field} is {member.config[field]:g}; set it to 0")
    own, other = (workdir_config.to_plain_dict(run.config) for run in (member, source))
    if differing := [field for field in own if field not in ("name", *FOCUS) and own[field] != other[field]]:
        raise InputError(
            f"{place}, but its {differing[0]} is {own[differing[0]]!r} and not {other[differing[0]]!r}; the two systems may "
            f"differ in {', '.join(FOCUS)} alone"
        )


def split_groups(
    members: Sequence[Member], count_at_once: Callable[[Sequence[Member]], int], hosts: int = 1
) -> list[list[Member]]:
    """Splits each group into parts that train at once.

    Args:
      members: of all groups.
      count_at_once: returns how many members of a group may train at once.
      hosts: that train the parts; each group gets at least as many parts, if it has enough members.
    """
    groups = collections.defaultdict(list)
    for member in members:
        groups[member.group].append(member)
    sizes = {key: min(count_at_once(group), -(-len(group) // hosts)) for key, group in groups.items()}
    return [group[i : i + sizes[key]] for key, group in groups.items() for i in range(0, len(group), sizes[key])]
