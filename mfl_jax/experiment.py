"""Systems x seeds x alpha in one program: trains all runs of an experiment and says what they show.

python -m mfl_jax.experiment --config=configs/table4.py [--config.FIELD=VALUE ...] [--workdir=DIR]
"""

import collections
import contextlib
import copy
import json
import pathlib

import numpy as np
import rich.console
import rich.progress
from absl import flags
from ml_collections import ConfigDict, config_flags

from mfl_jax.errors import InputError
from mfl_jax.runtime import commandline, hosts

EXPERIMENT_FIELDS = ("systems", "seeds", "alphas", "folds", "members_at_once")


def expand_members(config) -> list:
    """The runs of an experiment, those that can be trained at once side by side.

    Raises:
      InputError: a field makes no sense, or a system sets a field that there is not.
    """
    from mfl_jax.data.builder import FOLDS
    from mfl_jax.training import config_checks
    from mfl_jax.training.run_group import Member

    def refuse(field, what):
        raise InputError(f"config.{field} is {config[field]!r}; {what}")

    if config.seeds < 1:
        refuse("seeds", "it is at least 1")
    if config.members_at_once < 0:
        refuse("members_at_once", "it is a number of runs, 0 for as many as fit")
    if config.validation != "none":
        refuse("validation", "an experiment reports the last epoch, as the paper does: none")
    if not config.systems:
        refuse("systems", "an experiment needs at least one")
    members = []
    for system, changes in config.systems.items():
        fields = {key: value for key, value in config.to_dict().items() if key not in EXPERIMENT_FIELDS}
        if unknown := set(changes) - set(fields):
            raise InputError(f"config.systems.{system} sets {sorted(unknown)[0]!r}, and there is no such config field")
        base = ConfigDict({**fields, **changes.to_dict(), "name": system, "note": ""})
        alphas = config.alphas if len(base.tasks) == 2 and config.alphas else [base.alpha]
        for alpha in alphas:
            for fold in range(1, FOLDS + 1) if config.folds else [0]:
                for seed in range(config.seed, config.seed + config.seeds):
                    one = copy.deepcopy(base)
                    one.alpha, one.seed = float(alpha), seed
                    config_checks.check_config(one)
                    parts = [system, *([f"alpha{alpha:g}"] if config.alphas else []), *([f"fold{fold}"] if fold else [])]
                    members.append(Member("-".join([*parts, f"seed{seed}"]), system, one, fold))
    order = {group: number for number, group in enumerate(dict.fromkeys(member.group for member in members))}
    return sorted(members, key=lambda member: order[member.group])


def split_groups(members: list, at_once, hosts: int = 1) -> list[list]:
    """Cuts the members of each group into what is trained at once: as many as `at_once` tells of a member, and no fewer pieces
    than there are hosts to train them, where there are members enough.
    """
    groups = collections.defaultdict(list)
    for member in members:
        groups[member.group].append(member)
    sizes = {key: min(at_once(group[0]), -(-len(group) // hosts)) for key, group in groups.items()}
    return [group[i : i + sizes[key]] for key, group in groups.items() for i in range(0, len(group), sizes[key])]


def run(config, workdir: pathlib.Path, console: rich.console.Console | None = None) -> bool:
    """Trains what is missing of an experiment and writes its results.json and report.

    Args:
      config: as `configs.default.experiment` makes it. workdir: of the experiment.
      console: to report to.

    Returns:
      Whether it is complete; False if it was asked to stop.

    Raises:
      InputError: a field, the data or the work directory is not right.
    """
    from mfl_jax import report
    from mfl_jax.data import prepare
    from mfl_jax.runtime import history, parallel, workdir_config, workdir_lock
    from mfl_jax.runtime.progress import progress_bar
    from mfl_jax.runtime.stop_signal import stop_requests
    from mfl_jax.scoring import floor_scores
    from mfl_jax.training import run_group, setup
    from mfl_jax.training.group_memory import count_fitting
    from mfl_jax.training.splits import Splits

    members = expand_members(config)
    workdir_config.check_workdir(workdir, config)
    dataset = prepare.open_or_prepare(config)
    setup.configure_process(config)
    devices = setup.select_local_devices(config)
    first = parallel.is_first_host()
    console = console or rich.console.Console(quiet=not first)
    if config.note:
        console.print(config.note, soft_wrap=True, highlight=False)
    splits = Splits(dataset, dataset.read("development"), dataset.read("evaluation"))
    at_once = (lambda member: config.members_at_once) if config.members_at_once else None
    parts = split_groups(
        members, at_once or (lambda member: count_fitting(member.config, dataset, devices)), parallel.host_count()
    )
    steps = {m.name: config.epochs * -(-len(splits.numbers(m.fold)[0]) // config.batch_size) for m in members}
    console.print(
        f"{config.name}: {len(members)} runs in {len(parts)} groups, {min(map(len, parts))} to {max(map(len, parts))} at once, "
        f"{config.epochs} epochs; on {len(devices)} {devices[0].device_kind} device(s)",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    floors = {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(workdir_lock.lock_workdir(workdir))
        if first:
            workdir_config.claim_workdir(workdir, config)
            history.record_start(workdir, history.describe_start(config, dataset.fingerprint, devices))
            describe_data(splits, config.folds, workdir)
        stop = stack.enter_context(stop_requests())
        bar = stack.enter_context(progress_bar("steps of runs", console=console))
        task = bar.add_task("", total=sum(steps.values()))
        for number, part in enumerate(parts, 1):
            if not parallel.is_turn(number):
                continue  # another host's
            bar.update(task, description=f"group {number} of {len(parts)}")
            if all(run_group.is_finished(member, workdir) for member in part):
                bar.advance(task, sum(steps[member.name] for member in part))
                continue
            fold = part[0].fold  # one for all of a group
            if fold not in floors:
                _, clips, numbers, _ = splits.numbers(fold)
                floors[fold] = floor_scores.compute_floors(clips, numbers, dataset.scenes, dataset.events)
            if not run_group.train_group(
                part, splits, workdir, devices=devices, stop=stop, lowest=floors[fold],
                advance=lambda count: bar.advance(task, count),
            ):  # fmt: skip
                console.print("stopped; the same command goes on from there")
                return False
            for member in part:
                console.print(_line(member, workdir), highlight=False, soft_wrap=True)
        if not first:
            return True
        if parallel.host_count() > 1:
            bar.update(task, description="the other hosts")
        while missing := [member for member in members if not run_group.is_finished(member, workdir)]:
            bar.update(task, completed=sum(steps.values()) - sum(steps[member.name] for member in missing))
            if stop.wait(1):
                console.print("stopped; the same command goes on from there")
                return False
        # A group of which all members are complete is not looked at again: what a kill left of it goes here.
        run_group.remove_folder(workdir / "groups")
    report.write(workdir, console)
    return True


def describe_data(splits, folds: bool, workdir: pathlib.Path) -> None:
    """Writes data.json: the floors of all that is scored, and for how long each event is active in each scene of each split."""
    from mfl_jax.runtime import storage
    from mfl_jax.scoring import floor_scores

    file, dataset = workdir / "data.json", splits.dataset
    if file.is_file():
        return
    seconds = {}
    for name in ("development", "evaluation"):
        clips = getattr(splits, name)
        counts = floor_scores.count_activity(clips, np.arange(len(clips)), len(dataset.scenes), len(dataset.events))
        scene_clips, frames, active = (count.tolist() for count in counts)
        hop_s = dataset.mel.hop_s
        seconds[name] = {
            "clips": scene_clips,
            "seconds": [count * hop_s for count in frames],
            "active_seconds": [[count * hop_s for count in row] for row in active],
        }
    scored = splits.development if folds else splits.evaluation
    floors = floor_scores.compute_floors(scored, np.arange(len(scored)), dataset.scenes, dataset.events)
    about = {"scenes": dataset.scenes, "events": dataset.events, "splits": seconds, "floors": floors}
    storage.atomic_write(file, json.dumps(about, indent=1) + "\n")


def _line(member, workdir) -> str:
    results = json.loads((workdir / "members" / member.name / "results.json").read_text(encoding="utf-8"))
    scores = [f"{task} {results[task]['micro_f']:.2f} / {results[task]['macro_f']:.2f}" for task in member.config.tasks]
    return f"{member.name}: micro / macro F {', '.join(scores)}"


def _run(config, workdir):
    if "systems" not in config:
        raise InputError("this config describes no experiment; configs/table4.py does, and mfl_jax.main runs a single system")
    if run(config, workdir):
        return 0
    hosts.exit_without_waiting(130)  # the others work on their own runs, and do not know
    return 130


def define_flags() -> commandline.Flags:
    """Defines the flags of the command."""
    return commandline.Flags(
        config_flags.DEFINE_config_file("config", None, "A file of configs/, e.g. configs/table4.py or configs/table4.py:quick."),
        flags.DEFINE_string("workdir", None, "Folder of the experiment; runs/<name of the config> by default."),
    )


if __name__ == "__main__":
    commandline.start(_run, define_flags())
