"""Trains the runs of an experiment part by part, this host's share of them, and waits for the other hosts."""

import json
import pathlib
import threading
from collections.abc import Callable, Mapping, Sequence

import jax
import rich.console
import rich.progress

from mfl_jax.runtime import parallel
from mfl_jax.runtime.progress import progress_bar
from mfl_jax.runtime.stop_signal import stop_requests
from mfl_jax.training import constant_weights, run_group
from mfl_jax.training.run_group import Member
from mfl_jax.training.splits import Splits

STOPPED = "stopped; the same command goes on from there"


def train_parts(
    parts: Sequence[Sequence[Member]],
    splits: Splits,
    home: pathlib.Path,
    *,
    devices: list[jax.Device],
    prepare_floors: Callable[[int], Callable[[Mapping], Mapping]],
    console: rich.console.Console,
) -> bool:
    """Trains every part of an experiment that is not finished yet.

    Args:
      parts: members that train at once; the hosts take turns. Parts with weights from others come last.
      splits: the clips.
      home: work directory of the experiment.
      devices: of this host.
      prepare_floors: takes a fold and returns `lowest` of `run_group.train_group` for its members.
      console: to report to.

    Returns:
      Whether this host's parts, and on the first host all parts, are finished; False if asked to stop.

    Raises:
      InputError: a loss is not finite, or the work directory is not usable.
    """
    members = [member for part in parts for member in part]
    steps = {member.name: _count_steps(member, splits) for member in members}
    with stop_requests() as stop, progress_bar("steps of runs", console=console) as bar:
        task = bar.add_task("", total=sum(steps.values()))
        floors: dict[int, Callable[[Mapping], Mapping]] = {}
        for number, part in enumerate(parts, 1):
            if not parallel.is_turn(number):
                continue
            bar.update(task, description=f"group {number} of {len(parts)}")
            if all(run_group.is_finished(member, home) for member in part):
                bar.advance(task, sum(steps[member.name] for member in part))
                continue
            if not _wait_for_sources(part, members, home, stop=stop):
                console.print(STOPPED)
                return False
            if not run_group.find_folder(part, home, devices).is_dir():
                # The group has not begun. Members that finished in another one, with fewer systems or devices, stay as they are.
                bar.advance(task, sum(steps[member.name] for member in part if run_group.is_finished(member, home)))
                part = [member for member in part if not run_group.is_finished(member, home)]
            part = [constant_weights.resolve_weights(member, members, home) for member in part]
            fold = part[0].fold  # the same for all members of a group
            if fold not in floors:
                floors[fold] = prepare_floors(fold)
            if not run_group.train_group(
                part, splits, home,
                devices=devices, stop=stop, lowest=floors[fold], advance=lambda count: bar.advance(task, count),
            ):  # fmt: skip
                console.print(STOPPED)
                return False
            for member in part:
                console.print(_format_scores(member, home), highlight=False, soft_wrap=True)
        if parallel.is_first_host():
            return _wait_for_other_hosts(steps, parts, home, stop=stop, bar=bar, task=task)
    return True


def _count_steps(member: Member, splits: Splits) -> int:
    trained, *_ = splits.numbers(member.fold)
    return member.config.epochs * -(-len(trained) // member.config.batch_size)


def _wait_for_sources(part: Sequence[Member], members: Sequence[Member], home: pathlib.Path, *, stop: threading.Event) -> bool:
    """Waits until the runs that give the weights of a part are finished, on any host; returns False if asked to stop.

    No two hosts wait for each other: such parts come last, so every host has finished its share of the other runs by then.
    """
    sources = [source for member in part if member.weights_from for source in constant_weights.find_sources(member, members)]
    while not all(run_group.is_finished(source, home) for source in sources):
        if stop.wait(1):
            return False
    return True


def _wait_for_other_hosts(
    steps: Mapping[str, int],
    parts: Sequence[Sequence[Member]],
    home: pathlib.Path,
    *,
    stop: threading.Event,
    bar: rich.progress.Progress,
    task: rich.progress.TaskID,
) -> bool:
    """Waits until all parts are finished; returns False if asked to stop."""
    members = [member for part in parts for member in part]
    if parallel.host_count() > 1:
        bar.update(task, description="the other hosts")
    while missing := [member for member in members if not run_group.is_finished(member, home)]:
        bar.update(task, completed=sum(steps.values()) - sum(steps[member.name] for member in missing))
        if stop.wait(1):
            bar.console.print(STOPPED)
            return False
    # Remainders of groups that were finished when the program was killed.
    run_group.remove_folder(home / "groups")
    return True


def _format_scores(member: Member, home: pathlib.Path) -> str:
    results = json.loads((home / "members" / member.name / "results.json").read_text(encoding="utf-8"))
    scores = [f"{task} {results[task]['micro_f']:.2f} / {results[task]['macro_f']:.2f}" for task in member.config.tasks]
    return f"{member.name}: micro / macro F {', '.join(scores)}"
