"""Trains the runs of an experiment, systems x seeds x alphas, in one program and reports on them.

python -m mfl_jax.experiment --config=table4 [--config.FIELD=VALUE ...] [--workdir=DIR]
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import rich.console
from absl import flags
from ml_collections import ConfigDict

from mfl_jax.errors import InputError
from mfl_jax.runtime import commandline, config_file, hosts

if TYPE_CHECKING:
    import jax

    from mfl_jax.data.prepared_dataset import Dataset
    from mfl_jax.training.run_group import Member

STOPPED = 130
"""Exit status of an experiment that was asked to stop."""


def run(config: ConfigDict, workdir: pathlib.Path, console: rich.console.Console | None = None) -> bool:
    """Trains the unfinished runs of an experiment, then writes its results.json and report.

    Args:
      config: as `configs.default.experiment` builds it.
      workdir: of the experiment.
      console: to report to.

    Returns:
      Whether the experiment is finished; False if asked to stop.

    Raises:
      InputError: a field, the data or the work directory is invalid.
    """
    # Imported here, so that --help and wrong flags answer at once.
    from mfl_jax.data import prepare
    from mfl_jax.reporting import write_report
    from mfl_jax.runtime import history, parallel, workdir_config, workdir_lock
    from mfl_jax.scoring import data_summary, floor_scores, fold_thresholds
    from mfl_jax.training import constant_weights, experiment_members, experiment_run, setup
    from mfl_jax.training.splits import read_splits

    workdir_config.check_workdir(workdir, config)
    members = constant_weights.restore_members(experiment_members.expand_members(config), workdir)
    for member in members:  # before anything is computed: finished ones may have more epochs than the config
        workdir_config.check_workdir(member.folder(workdir), member.config)
    dataset = prepare.prepare_from_config(config)
    thresholds = fold_thresholds.read_all(config.thresholds_from, members, dataset)
    setup.configure_process(config)
    devices = setup.select_local_devices(config)
    first = parallel.is_first_host()
    console = console or rich.console.Console(quiet=not first)
    if config.note:
        console.print(config.note, soft_wrap=True, highlight=False)
    splits = read_splits(dataset, config.min_clip_share)
    parts = _plan_parts(config, members, dataset, devices)
    _print_plan(config, parts, devices, console)

    def prepare_floors(fold: int) -> Callable[[Mapping], dict]:
        _, clips, numbers, _ = splits.numbers(fold)
        return floor_scores.prepare_floors(dataset, clips, numbers)

    with workdir_lock.lock_workdir(workdir):
        if first:
            workdir_config.claim_workdir(workdir, config)
            history.append_start(workdir, history.build_start_record(config, dataset.fingerprint, devices))
            data_summary.write_data_summary(
                dataset, splits.development, splits.evaluation, folds=config.folds, workdir=workdir
            )  # fmt: skip
        if not experiment_run.train_parts(
            parts, splits, workdir, devices=devices, prepare_floors=prepare_floors, console=console
        ):
            return False
        if first:
            fold_thresholds.write_thresholds(workdir, config)
            fold_thresholds.apply_all(thresholds, members, workdir)
    if first:
        write_report.write_report(workdir, console)
    return True


def _plan_parts(config: ConfigDict, members: list[Member], dataset: Dataset, devices: list[jax.Device]) -> list[list[Member]]:
    """Splits the members into parts that train at once."""
    from mfl_jax.runtime import parallel
    from mfl_jax.training import experiment_members
    from mfl_jax.training.device_memory import count_fitting

    def count_at_once(group: Sequence[Member]) -> int:
        configs = [member.config for member in group]
        return config.members_at_once or count_fitting(configs[0], dataset, devices, sharing=configs)

    return experiment_members.split_groups(members, count_at_once, parallel.host_count())


def _print_plan(
    config: ConfigDict, parts: Sequence[Sequence[Member]], devices: list[jax.Device], console: rich.console.Console
) -> None:
    sizes = [len(part) for part in parts]
    console.print(
        f"{config.name}: {sum(sizes)} runs in {len(parts)} groups, {min(sizes)} to {max(sizes)} at once, "
        f"{config.epochs} epochs; on {len(devices)} {devices[0].device_kind} device(s)",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def _run_command(config: ConfigDict, workdir: pathlib.Path) -> int:
    if "systems" not in config:
        raise InputError("this config does not describe an experiment; use --config=table4, or python -m mfl_jax.main")
    if run(config, workdir):
        return 0
    hosts.exit_without_waiting(STOPPED)  # the other hosts train their own runs and do not know
    return STOPPED


def define_flags() -> commandline.Flags:
    """Defines the flags of the command."""
    return commandline.Flags(
        config_file.define_flag("Name or file of a config, e.g. table4, table4:quick or configs/table4.py."),
        flags.DEFINE_string("workdir", None, "Folder of the experiment; runs/<name of the config> by default."),
    )


if __name__ == "__main__":
    commandline.run_with_config(_run_command, define_flags())
