"""Trains runs of one architecture at once: one compiled step, vmapped over their parameters, clip orders and scalars.

A member of such a group takes the steps of the run that `mfl_jax.main` trains from its config: the same initial parameters, the
same clips in the same order, the same updates. The bits differ, since a program for several runs adds in another order, and
training amplifies the difference, in bfloat16 more than in float32.
"""

import contextlib
import dataclasses
import functools
import hashlib
import pathlib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from mfl_jax.data import feature_statistics
from mfl_jax.data.prepared_dataset import Clips
from mfl_jax.runtime import parallel, workdir_config
from mfl_jax.runtime.background import Background
from mfl_jax.training import epoch_log, evaluation, histogram_file, rare_events, recording_counts, setup, task_balance
from mfl_jax.training.checkpoints import Checkpoints
from mfl_jax.training.epoch import EpochResult, end_epoch, is_checkpoint_due, is_finite, resume, run_epoch
from mfl_jax.training.group_batches import GroupBatches, take_clips_by_number
from mfl_jax.training.loss_watch import LossWatch, nan_loss_error
from mfl_jax.training.optimiser import OPTIMISER_SCALARS, schedule_scalars
from mfl_jax.training.splits import Splits, check_annotations
from mfl_jax.training.steps import LOSS_SCALARS, TrainState

VARYING = (
    "name", "seed", *OPTIMISER_SCALARS, *LOSS_SCALARS, "learning_rate_decay", "warmup_epochs", "weight_decay", "ema_decay",
    "augmentations", "prior_bias", "rare_event_sampling", "random_crops",
)  # fmt: skip
"""Config fields in which members of a group may differ."""


@dataclasses.dataclass(frozen=True)
class Member:
    """A run of an experiment.

    Attributes:
      name: of its folder.
      system: its row in the tables.
      config: as for `loop.train`.
      fold: 1 to 4 to train without that fold of the development split and to score on it, 0 for the split as it is.
      weights_from: system whose finished runs give the constant weights of the losses (`constant_weights`); or empty.
    """

    name: str
    system: str
    config: Any
    fold: int
    weights_from: str = ""

    @property
    def group(self) -> str:
        """Equal for members that can be trained at once."""
        fields = sorted((k, v) for k, v in workdir_config.to_plain_dict(self.config).items() if k not in VARYING)
        return repr((self.fold, bool(self.weights_from), fields))

    def folder(self, home: pathlib.Path) -> pathlib.Path:
        """The folder of the run in the experiment's folder `home`."""
        return home / "members" / self.name


def is_finished(member: Member, home: pathlib.Path) -> bool:
    """Whether the results of a member are written."""
    return (member.folder(home) / "results.json").is_file()


@functools.lru_cache(maxsize=setup.CACHED_STEPS)
def compile_group_steps(settings: setup.StepSettings, devices: tuple) -> tuple[Callable, Callable]:
    """Compiles the training and the evaluation step of several runs at once; cached like `setup.compile_steps`."""
    train_step, eval_step = setup.bind_steps(settings)
    return (
        parallel.compile_members(take_clips_by_number(train_step), (0, None, 0, 0), list(devices), donate=True),
        parallel.compile_members(eval_step, (0, None, 0), list(devices), donate=False),
    )


def stack_trees(trees: Iterable) -> Any:
    """Stacks trees of arrays into one with a leading axis, on the host."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(list(trees)))


def take_member(tree, index: int) -> Any:
    """Returns one entry of a stacked tree, on the host."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def train_group(
    members: Sequence[Member],
    splits: Splits,
    home: pathlib.Path,
    *,
    devices: list,
    stop: threading.Event,
    advance: Callable[[int], Any],
    lowest: Callable[[Mapping], Mapping],
) -> bool:
    """Trains the members of one group to the end and scores them, resuming where an earlier call stopped.

    Args:
      members: with equal `group`.
      splits: the clips.
      home: folder of the experiment; `members/` and `groups/` are written.
      devices: share the members.
      stop: set to stop after the current step.
      advance: called with the number of member steps taken, those of an earlier call included.
      lowest: takes the `by_clip` of a run, from `evaluation.accumulate_counts`, and returns the floors of the scored clips.

    Returns:
      Whether the members are complete; False if asked to stop.

    Raises:
      InputError: a loss is not finite, or the group was begun on other data or has more epochs.
    """
    group = _Group(members, splits, home, devices)
    with Checkpoints(group.folder / "checkpoints", keep=2, owner=True) as checkpoints, Background() as background:
        states = group.resume_or_start(checkpoints)
        begun = -(-int(states.step[0]) // group.batches.epoch_steps)
        for member in members:
            workdir_config.refuse_fewer_epochs(member.folder(home), member.config.epochs, begun)
            workdir_config.claim_workdir(member.folder(home), member.config)
        advance(int(states.step[0]) * len(members))
        trained = group.run_epochs(states, checkpoints, background, stop, advance)
    if trained is None:
        return False
    group.score(trained, lowest)
    remove_folder(group.folder)
    return True


def find_folder(members: Sequence[Member], home: pathlib.Path, devices: list) -> pathlib.Path:
    """Returns the folder in which a group keeps its checkpoints; arguments as in `train_group`."""
    names = [member.name for member in _fill_devices(members, devices)]
    return home / "groups" / hashlib.sha256(repr(names).encode()).hexdigest()[:16]


def _fill_devices(members: Sequence[Member], devices: list) -> list[Member]:
    """Appends copies of the last member until each of the devices in use has equally many."""
    return [*members, *[members[-1]] * (-len(members) % min(len(devices), len(members)))]


class _Group:
    """Members that are trained at once, with their data, compiled steps and folders."""

    def __init__(self, members: Sequence[Member], splits: Splits, home: pathlib.Path, devices: list):
        """Compiles the steps and puts the clips onto the devices; arguments as in `train_group`."""
        self.config, self.dataset, self.splits, self.home = members[0].config, splits.dataset, splits, home
        self.devices = devices[: min(len(devices), len(members))]
        self.members = members
        self.padded = _fill_devices(members, devices)  # the copies are dropped
        self.folder = find_folder(members, home, devices)
        self.about = {"members": [member.name for member in self.padded], "fingerprint": self.dataset.fingerprint}
        self.training, *_ = splits.numbers(members[0].fold)
        check_annotations(splits.development, self.training, self.training[:0], self.config.tasks)
        configs = [member.config for member in self.padded]
        self.batches = GroupBatches(
            [member.config.seed for member in self.padded],
            self.config.batch_size, splits.development, self.training, self.devices,
            probabilities=rare_events.draw_probabilities(
                splits.development, self.training, [config.rare_event_sampling for config in configs]
            ),
            random_crops=[config.random_crops for config in configs],
        )  # fmt: skip
        self.scalars = [setup.step_scalars(config, configs) for config in configs]
        self.schedules = [schedule_scalars(config, self.batches.epoch_steps, configs) for config in configs]
        self.starts = [setup.initial_state(config, self.dataset, configs) for config in configs]
        settings = setup.step_settings(self.config, self.starts[0][0])
        self.train_step, self.eval_step = compile_group_steps(settings, tuple(self.devices))

    def resume_or_start(self, checkpoints: Checkpoints) -> TrainState:
        """Restores the newest checkpoint, or stacks the first states; reads the records of complete epochs."""
        biases = [member.config.prior_bias for member in self.padded]
        priors = rare_events.compute_event_priors(self.splits.development, self.training) if any(biases) else None
        starts = [state for _, state in self.starts]
        states = stack_trees(
            state if priors is None else rare_events.set_event_bias(state, priors, bias)
            for state, bias in zip(starts, biases, strict=True)
        )
        stats = feature_statistics.compute_feature_statistics(self.splits.development, self.training)
        states = dataclasses.replace(states, feature_stats=stack_trees([stats] * len(self.padded)))
        checkpoints.check_room(states)
        refusal = f"{self.home} was begun on other data than {self.dataset.directory} holds now; name another --workdir"
        if (resumed := resume(checkpoints, states, self.dataset.fingerprint, refusal)) is not None:
            states = jax.device_get(resumed)
        epoch = int(states.step[0]) // self.batches.epoch_steps
        self.records = [epoch_log.read(member.folder(self.home) / workdir_config.LOG, epoch) for member in self.members]
        return states

    def run_epochs(
        self,
        states: TrainState,
        checkpoints: Checkpoints,
        background: Background,
        stop: threading.Event,
        advance: Callable[[int], Any],
    ) -> TrainState | None:
        """Runs the remaining epochs; returns the states on the devices, or None if asked to stop."""
        taken, epoch_steps = int(states.step[0]), self.batches.epoch_steps
        states = parallel.place_members(states, self.devices)

        def report_loss(step, losses):
            background.wait()
            broken = [member.name for member, loss in zip(self.padded, np.ravel(losses), strict=True) if not np.isfinite(loss)]
            raise nan_loss_error(step, epoch_steps, ", ".join(broken), checkpoints.last_good())

        watch = LossWatch(report_loss)
        for epoch in range(taken // epoch_steps, self.config.epochs):
            if self.config.balance == "dwa":
                background.wait()  # its weights follow from the records
            scalars = self._epoch_scalars()
            result = run_epoch(
                lambda states, batch, scalars: self.train_step(states, self.batches.clips, batch, scalars),
                states, stack_trees(one | more for one, more in zip(scalars, self.schedules, strict=True)),
                self.batches.epoch(epoch, taken % epoch_steps),
                steps=taken, epoch_steps=epoch_steps, watch=watch,
                report_step=lambda _: advance(len(self.members)), stop_requested=stop.is_set,
            )  # fmt: skip
            states, taken = result.state, result.steps
            if not result.complete:
                watch.check_all()
                background.wait()
                checkpoints.save(parallel.gather_members(states, len(self.devices)), self.about)
                return None
            states, finished, sums = end_epoch(states)
            background.submit(self._finish_epoch, epoch + 1, result._replace(state=finished), sums, scalars, checkpoints)
            if result.stop and epoch + 1 < self.config.epochs:
                break
        watch.check_all()
        background.wait()
        return states if taken == self.config.epochs * epoch_steps else None

    def _finish_epoch(self, epoch: int, result: EpochResult, sums: dict, scalars: list[dict], checkpoints: Checkpoints) -> None:
        """Logs and saves after `epoch` epochs, beside the steps of the next one; `sums` are of the last one."""
        sums = parallel.gather_members(sums, len(self.devices))
        if not is_finite(sums):
            return
        self._log_epoch(epoch, result, sums, scalars)
        if is_checkpoint_due(checkpoints, epoch, last=result.stop or epoch == self.config.epochs):
            states = parallel.gather_members(result.state, len(self.devices))
            checkpoints.check_room(states)
            checkpoints.save(states, self.about)

    def _epoch_scalars(self) -> list[dict]:
        """The scalars of the next epoch, one dictionary per member."""
        copies = len(self.padded) - len(self.members)
        histories = [*self.records, *self.records[-1:] * copies]
        return [
            task_balance.epoch_scalars(self.config.balance, scalars, history)
            for scalars, history in zip(self.scalars, histories, strict=True)
        ]

    def _log_epoch(self, epoch: int, result: EpochResult, sums: dict, scalars: list[dict]) -> None:
        """Adds an epoch to the metrics.jsonl of each member; the members share its time."""
        learned = parallel.gather_members(result.state.params.get(task_balance.LOG_VARIANCES, {}), len(self.devices))
        for index, member in enumerate(self.members):
            record = epoch_log.epoch_record(
                take_member(sums, index), take_member(learned, index), scalars[index], member.config,
                epoch=epoch, taken=result.steps, clips=result.clips, seconds=result.seconds / len(self.members),
            )  # fmt: skip
            self.records[index].append(record)
            epoch_log.write(member.folder(self.home) / workdir_config.LOG, self.records[index])

    def score(self, states: TrainState, lowest: Callable[[Mapping], Mapping]) -> None:
        """Scores trained members, and writes the checkpoint and the results of each.

        Args:
          states: on the devices.
          lowest: as in `train_group`.
        """
        trained, clips, numbers, split = self.splits.numbers(self.members[0].fold)
        sums, training = self._count(states, clips, numbers), self._count(states, self.splits.development, trained)
        states = parallel.gather_members(states, len(self.devices))
        for index, member in enumerate(self.members):
            of_member = take_member(sums, index) | {"training": take_member(training, index)}
            floors = lowest(of_member["by_clip"])
            self._finish_member(member, take_member(states, index), of_member, clips, floors, split)

    def _count(self, states: TrainState, clips: Clips, numbers: np.ndarray) -> dict:
        """Accumulates the counts of all members over clips."""
        scalars = stack_trees(self.scalars)
        sums = evaluation.accumulate_counts(self.eval_step, states, scalars, clips, numbers, self.config.batch_size)
        return parallel.gather_members(sums, len(self.devices))

    def _finish_member(self, member: Member, state: TrainState, sums: Mapping, clips: Clips, lowest: Mapping, split: str) -> None:
        """Writes checkpoint, counts and histogram as a run does, and then results.json, which marks the member as complete."""
        folder, step = member.folder(self.home), int(state.step)
        if not member.config.ema_decay:
            state = dataclasses.replace(state, average=None)  # equal to the parameters; other members of the group have one
        epoch = step // self.batches.epoch_steps
        with Checkpoints(folder / "checkpoints", keep=1) as checkpoints:
            if step not in checkpoints.steps():
                checkpoints.save(state, {**setup.checkpoint_metadata(member.config, self.dataset), "epoch": epoch})
        recording_counts.write_counts(folder, recording_counts.count_recordings(sums["by_clip"], clips))
        if "event" in sums:
            histogram_file.write_histogram(folder, sums["event"]["histogram"], self.dataset.events)
        results = evaluation.build_results(
            member.config, self.dataset, sums, lowest,
            split=split, checkpoint={"which": "last", "step": step, "epoch": epoch}, devices=self.devices,
        )  # fmt: skip
        about = {"training": evaluation.summarise_training(sums["training"]), "member": member.name, "fold": member.fold}
        evaluation.write_results(folder / "results.json", {**results, **about})


def remove_folder(folder: pathlib.Path) -> None:
    """Removes a folder, which another host may be removing too."""
    with contextlib.suppress(FileNotFoundError):
        epath.Path(folder).rmtree(missing_ok=True)
