"""Trains runs that share an architecture at once: one compiled step, vmapped over their parameters, data orders and scalars.

A member of such a group is the very run that `mfl_jax.main` makes of its config: the same initial parameters, the same clips in
the same order, the same steps.
"""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from mfl_jax.data import batching, feature_statistics
from mfl_jax.data.prepared_dataset import Clips, Dataset
from mfl_jax.errors import InputError
from mfl_jax.runtime import parallel, workdir_config
from mfl_jax.training import epoch_log, evaluation, loop, setup, task_balance
from mfl_jax.training.checkpoints import Checkpoints
from mfl_jax.training.loss_watch import LossWatch, nan_loss_error

VARYING = ("name", "seed", "alpha", "beta", "gamma", "zeta", "eta", "learning_rate")
"""The fields of a config in which members of a group may differ."""
MOST_AT_ONCE = 16
"""Members a device trains at once where memory sets no limit: the program grows with them."""
RESIDENT_SHARE = 0.25
"""Share of a device's memory that the training clips may take; larger sets are streamed to it."""


@dataclasses.dataclass(frozen=True)
class Member:
    """A run of an experiment.

    Attributes:
      name: of its folder. system: of its row in the tables. config: as for `train.train`.
      fold: 1 to 4 to train without that fold of the development split and to score on it, 0 for the split as it is.
    """

    name: str
    system: str
    config: Any
    fold: int

    @property
    def group(self) -> str:
        """Equal for members that can be trained at once."""
        return repr((self.fold, sorted((k, v) for k, v in workdir_config.to_plain_dict(self.config).items() if k not in VARYING)))


@dataclasses.dataclass(frozen=True)
class Splits:
    """The clips of an experiment: what a fold trains on, what it is scored on, and the floors there."""

    dataset: Dataset
    development: Clips
    evaluation: Clips

    def numbers(self, fold: int) -> tuple[np.ndarray, Clips, np.ndarray, str]:
        """The development clips to train on; the clips to score, their numbers, and what they are called."""
        if fold == 0:
            trained, _ = loop.split_development(self.development, "none")
            return trained, self.evaluation, np.arange(len(self.evaluation)), "evaluation"
        trained, held_out = loop.split_development(self.development, f"fold{fold}")
        return trained, self.development, held_out, f"fold {fold} of development"


def memory_bytes(device) -> int:
    """Memory of a device; half of the machine's for a CPU, which others use too."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats and device.platform != "cpu":
        return stats["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def count_fitting(member: Member, dataset: Dataset, devices: list) -> int:
    """How many members like this one fit onto the devices at once, from what the compiler says one needs; at least one each."""
    config = member.config
    graphdef, state = setup.initial_state(config, dataset)
    train_step, _ = setup.bind_steps(config, graphdef)
    clips, frames = config.batch_size, dataset.clip_frames
    batch = {
        "log_mel": jax.ShapeDtypeStruct((clips, frames, dataset.mel.mel_bins), jnp.float32),
        "events": jax.ShapeDtypeStruct((clips, frames, len(dataset.events)), bool),
        "scene": jax.ShapeDtypeStruct((clips,), jnp.int32),
        "valid_frames": jax.ShapeDtypeStruct((clips,), jnp.int32),
        "clip_mask": jax.ShapeDtypeStruct((clips,), bool),
    }
    step = parallel.compile_train_step(train_step, devices[:1])
    needs = step.lower(state, batch, setup.step_scalars(config)).compile().memory_analysis()
    each = needs.temp_size_in_bytes + 2 * needs.argument_size_in_bytes
    most = (0.8 - RESIDENT_SHARE) * memory_bytes(devices[0]) // each
    return int(min(max(most, 1), MOST_AT_ONCE)) * len(devices)


def _with_clips(step: Callable) -> Callable:
    """Lets a step take its clips out of arrays that lie on the device, by number."""

    def taking(state, source, batch, scalars, *, axis_name):
        if source:
            numbers = batch["numbers"]
            batch = {name: value[numbers] for name, value in source.items()} | {"clip_mask": batch["clip_mask"]}
        return step(state, batch, scalars, axis_name=axis_name)

    return taking


class GroupBatches:
    """The batches of all members, each in its own order."""

    def __init__(self, members: Sequence[Member], clips: Clips, trained: np.ndarray, devices: list):
        """Puts the clips onto the devices where they fit."""
        self.members, self.clips, self.trained = members, clips, trained
        self.batch_size = members[0].config.batch_size
        self.steps = -(-len(trained) // self.batch_size)
        arrays = clips.arrays
        fits = arrays is not None and sum(v.nbytes for v in arrays.values()) <= RESIDENT_SHARE * memory_bytes(devices[0])
        self.source = parallel.replicate(arrays, devices) if fits else {}

    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[dict, int]]:
        """Yields the batches of an epoch from the step `first` on, with a leading axis of members, and the clips in each."""
        orders = [batching.shuffle_indices(self.trained, seed=member.config.seed, epoch=epoch) for member in self.members]
        for step in range(first, self.steps):
            parts = np.stack([order[step * self.batch_size : (step + 1) * self.batch_size] for order in orders])
            missing = self.batch_size - parts.shape[1]
            mask = np.pad(np.ones(parts.shape, bool), ((0, 0), (0, missing)))
            numbers = np.pad(parts, ((0, 0), (0, missing)))
            if self.source:
                yield {"numbers": numbers.astype(np.int32), "clip_mask": mask}, parts.shape[1]
            else:
                each = [self.clips.take(row) for row in numbers]
                yield {key: np.stack([clips[key] for clips in each]) for key in each[0]} | {"clip_mask": mask}, parts.shape[1]


def stack_trees(trees: Sequence) -> Any:
    """One tree of arrays with a leading axis, on the host."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(list(trees)))


def take_member(tree, index: int) -> Any:
    """The entry of a stacked tree, on the host."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def is_finished(member: Member, home: pathlib.Path) -> bool:
    """Whether the results of a member are there."""
    return (home / "members" / member.name / "results.json").is_file()


def train_group(
    members: Sequence[Member],
    splits: Splits,
    home: pathlib.Path,
    *,
    devices: list,
    stop: threading.Event,
    advance: Callable[[int], None],
    lowest: Mapping,
) -> bool:
    """Trains members of one group to the end and scores them, from where an earlier call left off.

    Args:
      members: of one `group`. splits: the data. home: of the experiment; `members/` and `groups/` are written.
      devices: that share the members. stop: set to stop after the step at hand.
      advance: called with the number of member steps taken, those of an earlier call included.
      lowest: the floors of what is scored.

    Returns:
      Whether they are complete; False if asked to stop.

    Raises:
      InputError: a loss is no longer a number.
    """
    config, dataset = members[0].config, splits.dataset
    real = len(members)
    devices = devices[: min(len(devices), real)]
    members = [*members, *[members[-1]] * (-real % len(devices))]  # the copies fill the devices up, and are dropped
    trained, scored, scored_numbers, split = splits.numbers(members[0].fold)
    starts = [setup.initial_state(member.config, dataset) for member in members]
    train_step, eval_step = setup.bind_steps(config, starts[0][0])
    take_step = parallel.compile_members(_with_clips(train_step), (0, None, 0, 0), devices, donate=True)
    feed = GroupBatches(members, splits.development, trained, devices)
    states = stack_trees(state for _, state in starts)
    stats = feature_statistics.compute_feature_statistics(splits.development, trained)
    states = dataclasses.replace(states, feature_stats=stack_trees([stats] * len(members)))
    scalars = [setup.step_scalars(member.config) for member in members]
    place = home / "groups" / hashlib.sha256(repr([member.name for member in members]).encode()).hexdigest()[:16]
    folders = [home / "members" / member.name for member in members[:real]]
    for folder, member in zip(folders, members[:real], strict=True):
        workdir_config.claim_workdir(folder, member.config)
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(place / "checkpoints", keep=2, owner=True))
        checkpoints.check_room(states)
        if (found := checkpoints.resume(states)) is not None:
            states, about = jax.device_get(found[0]), found[1]
            if about["fingerprint"] != dataset.fingerprint:
                raise InputError(f"{home} was begun on other data than {dataset.directory} holds now; name another --workdir")
            checkpoints.drop_after(int(states.step[0]))
        taken = int(states.step[0])
        epoch = taken // feed.steps
        made = [epoch_log.read(folder / "metrics.jsonl", epoch) for folder in folders]
        advance(taken * real)
        states = parallel.shard_members(states, len(devices))
        about = {"members": [member.name for member in members], "fingerprint": dataset.fingerprint}

        def refuse(step, loss):
            broken = [member.name for member, one in zip(members, np.ravel(loss), strict=True) if not np.isfinite(one)]
            raise nan_loss_error(step, feed.steps, ", ".join(broken), checkpoints)

        watch = LossWatch(refuse)
        while epoch < config.epochs:
            started, clips_seen = time.perf_counter(), 0
            histories = [*made, *made[-1:] * (len(members) - real)]
            now = [
                task_balance.epoch_scalars(config.balance, own, history) for own, history in zip(scalars, histories, strict=True)
            ]
            for batch, clips in feed.epoch(epoch, taken % feed.steps):
                states, loss = take_step(states, feed.source, batch, stack_trees(now))
                taken += 1
                clips_seen += clips
                watch.add(taken, loss)  # which also keeps the steps from running ahead: their batches take memory
                advance(real)
                if stop.is_set() and taken % feed.steps:
                    watch.look_at_all()
                    checkpoints.save(parallel.gather_members(states, len(devices)), about)
                    return False
            epoch += 1
            watch.look_at_all()
            on_host = parallel.gather_members(states, len(devices))
            checkpoints.check_room(on_host)
            seconds = time.perf_counter() - started
            for index, (member, folder) in enumerate(zip(members, folders, strict=False)):
                record = epoch_log.epoch_record(
                    take_member(on_host, index), now[index], member.config,
                    epoch=epoch, taken=taken, clips=clips_seen, seconds=seconds / real,
                )  # fmt: skip
                made[index].append(record)
                epoch_log.write(folder / "metrics.jsonl", made[index])
            on_host = dataclasses.replace(on_host, sums=jax.tree.map(np.zeros_like, on_host.sums))
            states = dataclasses.replace(states, sums=jax.tree.map(jnp.zeros_like, states.sums))
            checkpoints.save(on_host, about)
            if stop.is_set() and epoch < config.epochs:
                return False
    many_eval = parallel.compile_members(eval_step, (0, None, 0), devices, donate=False)
    sums = evaluation.accumulate_counts(
        many_eval, states, stack_trees(scalars), scored, scored_numbers, config.batch_size
    )  # fmt: skip
    sums, on_host = parallel.gather_members(sums, len(devices)), parallel.gather_members(states, len(devices))
    for index, (member, folder) in enumerate(zip(members, folders, strict=False)):
        _finish(member, folder, dataset, take_member(on_host, index), take_member(sums, index), lowest, split, epoch, devices)
    remove_folder(place)
    return True


def remove_folder(folder: pathlib.Path) -> None:
    """Removes a folder, which another host may be removing too."""
    with contextlib.suppress(FileNotFoundError):
        epath.Path(folder).rmtree(missing_ok=True)


def _finish(member, folder, dataset, state, sums, lowest, split, epoch, devices) -> None:
    """Writes the checkpoint of a member, as a run of its own has it, and then its results, which say that it is complete."""
    with Checkpoints(folder / "checkpoints", keep=1) as checkpoints:
        if int(state.step) not in checkpoints.steps():
            checkpoints.save(state, {**setup.checkpoint_metadata(member.config, dataset), "epoch": epoch})
    checkpoint = {"which": "last", "step": int(state.step), "epoch": epoch}
    results = evaluation.build_results(
        member.config, dataset, sums, lowest, split=split, checkpoint=checkpoint, devices=devices
    )  # fmt: skip
    evaluation.write_results(folder / "results.json", {**results, "member": member.name, "fold": member.fold})
