"""Constant weights of the losses: the mean loss multipliers of another system's finished runs.

A system with such weights is a control. Its losses are balanced as those of the other system are on average, but the balance does
not adapt during training.
"""

import collections
import copy
import dataclasses
import math
import pathlib
from collections.abc import Sequence

from mfl_jax.errors import InputError, join_first, warn
from mfl_jax.runtime import workdir_config
from mfl_jax.training import epoch_log
from mfl_jax.training.experiment_variants import FOCAL_TASKS
from mfl_jax.training.run_group import Member

MULTIPLIERS = {
    "scene_weight": ("scene", "loss_multiplier"),
    "active_weight": ("event", "loss_multiplier_active"),
    "inactive_weight": ("event", "loss_multiplier_inactive"),
}
"""Config field -> (task, key in the epoch records) of its mean."""


def find_sources(member: Member, members: Sequence[Member]) -> list[Member]:
    """Returns the runs that give the weights of a member: all seeds of the system it names, of the same fold and alpha.

    Args:
      member: of an experiment.
      members: all of them. Of a system whose focal parameters are swept, only the runs with its own values, which come first.
    """
    sources = [
        source
        for source in members
        if (source.system, source.fold, source.config.alpha) == (member.weights_from, member.fold, member.config.alpha)
    ]
    return [source for source in sources if _focus(source) == _focus(sources[0])]


def _focus(member: Member) -> list[float]:
    return [member.config[field] for field in FOCAL_TASKS]


def restore_weights(member: Member, home: pathlib.Path) -> Member:
    """Returns a member with the weights in its config.json; unchanged if the run has not begun.

    Args:
      member: of an experiment.
      home: folder of the experiment.
    """
    file = member.folder(home) / workdir_config.FILE
    if not member.weights_from or not file.is_file():
        return member
    stored = workdir_config.read_config(file)
    return _set_weights(member, {field: stored[field] for field in MULTIPLIERS})


def restore_members(members: Sequence[Member], home: pathlib.Path) -> list[Member]:
    """Returns the members with their stored weights; leaves out, with a warning, those whose weights can't be computed.

    That is so if an earlier version, which did not log loss multipliers, trained the runs that give the weights.

    Args:
      members: of an experiment.
      home: folder of the experiment.
    """
    kept, left_out = [], collections.defaultdict(list)
    for member in members:
        restored = restore_weights(member, home)
        try:
            resolve_weights(member, members, home)  # of the epochs so far; fails if they lack loss multipliers
        except InputError as error:
            left_out[str(error)].append(member.name)
        else:
            kept.append(restored)
    for reason, names in left_out.items():
        warn(f"{reason}; left out: {join_first(names)}")
    return kept


def resolve_weights(member: Member, members: Sequence[Member], home: pathlib.Path) -> Member:
    """Returns a member with its weights: from its config.json if it was begun, else from its sources, which must be finished.

    Args:
      member: of an experiment.
      members: all of them.
      home: folder of the experiment.

    Raises:
      InputError: an epoch of a source has no loss multipliers.
    """
    if not member.weights_from or (member.folder(home) / workdir_config.FILE).is_file():
        return restore_weights(member, home)
    return _set_weights(member, mean_multipliers(find_sources(member, members), home))


def mean_multipliers(sources: Sequence[Member], home: pathlib.Path) -> dict[str, float]:
    """Computes weights as the mean loss multipliers of finished runs over their epochs.

    Returns:
      Config field -> weight; 1 if the task is not trained or no epoch has a value.

    Raises:
      InputError: an epoch has no loss multipliers.
    """
    values: dict[str, list[float]] = {field: [] for field in MULTIPLIERS}
    for source in sources:
        file = source.folder(home) / workdir_config.LOG
        for record in epoch_log.read(file):
            for field, (task, key) in MULTIPLIERS.items():
                if task not in source.config.tasks:
                    continue
                if key not in record["train"][task]:
                    raise InputError(
                        f"{file}: epoch {record['epoch']} has no {key}, because an earlier version trained it; the constant "
                        "weights of another system need it, so train both in another --workdir"
                    )
                if (value := record["train"][task][key]) is not None:
                    values[field].append(value)
    return {field: math.fsum(found) / len(found) if found else 1.0 for field, found in values.items()}


def _set_weights(member: Member, weights: dict[str, float]) -> Member:
    config = copy.deepcopy(member.config)
    config.update(weights)
    return dataclasses.replace(member, config=config)
