"""The training loop of one run: data, step, log, checkpoint, resume."""

import contextlib
import dataclasses
import json
import math
import pathlib
import threading

import jax
import jax.numpy as jnp
import numpy as np
import rich.console

from mfl_jax.data import batching, feature_statistics, random_crops
from mfl_jax.data.prepared_dataset import Clips, Dataset
from mfl_jax.runtime import history, parallel, storage, workdir_config, workdir_lock
from mfl_jax.runtime.background import Background
from mfl_jax.runtime.progress import progress_bar
from mfl_jax.runtime.stop_signal import stop_requests
from mfl_jax.training import epoch_log, evaluation, rare_events, resident_clips, steps, task_balance
from mfl_jax.training.checkpoints import Checkpoints, state_bytes
from mfl_jax.training.epoch import Batches, EpochResult, end_epoch, is_checkpoint_due, is_finite, resume, run_epoch
from mfl_jax.training.loss_watch import LossWatch, nan_loss_error
from mfl_jax.training.optimiser import schedule_scalars
from mfl_jax.training.setup import Run, build_run, checkpoint_metadata
from mfl_jax.training.splits import check_annotations, split_development
from mfl_jax.training.steps import TrainState

KEPT_CHECKPOINTS = 2
"""The last one, and the one before it to fall back on."""
BAD_BATCH = "bad_batch.json"
"""Lists the clips of a step whose loss was not finite, with the range of their spectrograms."""


def train(config, dataset: Dataset, workdir: pathlib.Path, console: rich.console.Console | None = None) -> bool:
    """Trains to the end of the last epoch, resuming from the newest checkpoint in the work directory.

    The order of the clips depends only on the seed and the epoch, everything else only on the state. So a run that was stopped
    anywhere ends bit for bit as if it had not been, where the same program on the same devices computes the same bits twice:
    CPUs do, GPUs only with `--xla_gpu_deterministic_ops`.

    Args:
      config: see `configs/default.py`.
      dataset: prepared.
      workdir: created if missing; receives config.json, metrics.jsonl, checkpoints/, tensorboard/, and best/ with `validation`.
      console: prints progress; by default the first host's standard output.

    Returns:
      Whether training is complete; False if it was asked to stop.

    Raises:
      InputError: the work directory belongs to another config or other data or has more epochs, or a loss is not finite.
    """
    console = console or rich.console.Console(quiet=not parallel.is_first_host())
    workdir_config.check_workdir(workdir, config)
    run = build_run(config, dataset)
    identity = json.dumps([workdir_config.to_plain_dict(config), dataset.fingerprint], sort_keys=True)
    parallel.check_hosts_agree(identity, "has another config or other data; give all the same command and the same data set as")
    clips = dataset.read("development", min_clip_share=config.min_clip_share)
    training, held_out = split_development(clips, config.validation)
    check_annotations(clips, training, held_out, config.tasks)
    _print_plan(run, clips, training, console)
    with contextlib.ExitStack() as stack:
        stack.enter_context(workdir_lock.lock_workdir(workdir))
        stop = stack.enter_context(stop_requests())
        job = _Job(run, clips, training, held_out, workdir, console, stack)
        state = job.resume_or_start()
        workdir_config.refuse_fewer_epochs(workdir, config.epochs, -(-int(state.step) // job.epoch_steps))
        if parallel.is_first_host():
            workdir_config.claim_workdir(workdir, config)
        if int(state.step) >= config.epochs * job.epoch_steps:
            console.print(f"training was complete before: {int(state.step) // job.epoch_steps} epochs")
            return True
        return job.run_epochs(state, stop)


def _print_plan(run: Run, clips: Clips, training: np.ndarray, console: rich.console.Console) -> None:
    """Prints what is trained; `training` are the numbers of the clips to train on."""
    config, devices, hosts = run.config, run.devices, parallel.host_count()
    counts = {"scene": int(clips.scene_mask[training].sum()), "event": int(clips.event_mask[training].sum())}
    fewer = [f"{counts[task]} for {task}s" for task in config.tasks if counts[task] < len(training)]
    of_tasks = f" ({', '.join(fewer)})" if fewer else ""
    console.print(
        f"{config.name}: {len(training)} clips to train on{of_tasks}, {-(-len(training) // config.batch_size)} steps an epoch; "
        f"batch of {config.batch_size} on {len(devices)} {devices[0].device_kind} device(s)"
        f"{f' of {hosts} hosts' if hosts > 1 else ''}, {run.padded_size // len(devices)} on each",
        soft_wrap=True,
    )


class _Job:
    """A run in its locked work directory, with its open checkpoints and logs."""

    def __init__(
        self,
        run: Run,
        clips: Clips,
        training: np.ndarray,
        held_out: np.ndarray,
        workdir: pathlib.Path,
        console: rich.console.Console,
        stack: contextlib.ExitStack,
    ):
        """Opens the checkpoints; `stack` closes them.

        Args:
          run: compiled steps and first state.
          clips: the development split.
          training, held_out: numbers of the clips to train on and to validate on.
          workdir, console: as in `train`.
          stack: closes what is opened here and by the methods.
        """
        config = run.config
        self.run, self.clips, self.training, self.held_out = run, clips, training, held_out
        self.workdir, self.console, self.stack = workdir, console, stack
        self.epoch_steps = -(-len(training) // config.batch_size)
        (self.draws,) = rare_events.draw_probabilities(clips, training, [config.rare_event_sampling])
        self.schedule = schedule_scalars(config, self.epoch_steps)
        self.metadata = checkpoint_metadata(config, run.dataset)
        self.checkpoints = stack.enter_context(
            Checkpoints(
                workdir / "checkpoints",
                keep=KEPT_CHECKPOINTS, keep_every=config.keep_every * self.epoch_steps, together=True, owner=True,
            )
        )  # fmt: skip
        self.best: Checkpoints | None = None
        if len(held_out):
            self.best = stack.enter_context(Checkpoints(workdir / "best", keep=1, together=True, owner=True))
        # Streamed on several hosts, each of which reads its own rows.
        self.resident = resident_clips.place_clips(clips, run.devices) if parallel.host_count() == 1 else {}
        self.take_batch = resident_clips.compile_take_batch(run.devices)

    def resume_or_start(self) -> TrainState:
        """Restores the newest checkpoint, or computes the feature statistics for the first state."""
        run, config = self.run, self.run.config
        self.checkpoints.check_room(run.initial)
        kept = KEPT_CHECKPOINTS + (self.best is not None) + (config.epochs // config.keep_every if config.keep_every else 0)
        megabytes = state_bytes(run.initial) / 1e6
        self.console.print(f"at most {kept} checkpoints are kept, of {megabytes:.1f} MB each", highlight=False)
        refusal = f"{self.workdir} was trained on other data than {run.dataset.directory} holds now; name another --workdir"
        if (state := resume(self.checkpoints, run.initial, run.dataset.fingerprint, refusal)) is not None:
            self.console.print(f"resumes after step {int(state.step)} of {self.epoch_steps * config.epochs}")
            return state
        of_this_host = self.training[jax.process_index() :: parallel.host_count()]
        stats = feature_statistics.compute_feature_statistics(self.clips, of_this_host, add=parallel.sum_over_hosts)
        state = dataclasses.replace(run.initial, feature_stats=jax.tree.map(jnp.asarray, stats))
        if config.prior_bias:
            priors = rare_events.compute_event_priors(self.clips, of_this_host, add=parallel.sum_over_hosts)
            state = rare_events.set_event_bias(state, priors, config.prior_bias)
        return state

    def run_epochs(self, state: TrainState, stop: threading.Event) -> bool:
        """Runs the remaining epochs; returns False if asked to stop."""
        config, taken = self.run.config, int(state.step)
        self._open_logs(taken)
        self.background = self.stack.enter_context(Background())
        bar = self.stack.enter_context(progress_bar("steps", console=self.console))
        task = bar.add_task("training", total=self.epoch_steps * config.epochs, completed=taken)
        vote = parallel.StopVote()
        watch = LossWatch(self._report_bad_batch)
        state = parallel.place_state(state, self.run.devices)
        for epoch in range(taken // self.epoch_steps, config.epochs):
            if config.balance == "dwa":
                self.background.wait()  # its weights follow from the records
            scalars = task_balance.epoch_scalars(config.balance, self.run.scalars, self.records)
            result = run_epoch(
                self.run.train_step, state, scalars | self.schedule, self._batches(epoch, taken % self.epoch_steps),
                steps=taken, epoch_steps=self.epoch_steps, watch=watch,
                report_step=lambda step: bar.update(task, completed=step), stop_requested=lambda: vote.cast(stop.is_set()),
            )  # fmt: skip
            state, taken = result.state, result.steps
            if not result.complete:
                watch.check_all()
                self.background.wait()
                self._save(self.checkpoints, state, epoch)
                self.checkpoints.wait()
                self.console.print(f"stopped after step {taken}; the same command goes on from there")
                return False
            state, finished, sums = end_epoch(state)
            self.background.submit(self._finish_epoch, epoch + 1, result._replace(state=finished), sums, scalars)
            bar.update(task, description=f"epoch {epoch + 1}/{config.epochs}")
            if result.stop and epoch + 1 < config.epochs:
                watch.check_all()
                self.background.wait()
                self.console.print(f"stopped after epoch {epoch + 1}; the same command goes on from there")
                return False
        watch.check_all()
        self.background.wait()
        self.checkpoints.wait()
        used = self.checkpoints.bytes() + (self.best.bytes() if self.best else 0)
        self.console.print(f"the checkpoints take {used / 1e6:.1f} MB", highlight=False)
        return True

    def _open_logs(self, taken: int) -> None:
        """Goes back to the last complete epoch in all logs, and notes this start in the history."""
        run, epoch = self.run, taken // self.epoch_steps
        if self.best is not None:
            self.best.drop_after(taken)
        self.records = epoch_log.read(self.workdir / workdir_config.LOG, epoch)
        scores = [epoch_log.validation_score(record) for record in self.records if "validation" in record]
        self.best_score = max(scores, default=-math.inf)
        self.board: epoch_log.TensorBoardWriter | None = None
        if parallel.is_first_host():
            start = history.build_start_record(run.config, run.dataset.fingerprint, run.devices)
            history.append_start(self.workdir, {**start, "from_step": taken})
            self.board = self.stack.enter_context(epoch_log.TensorBoardWriter(self.workdir / "tensorboard", purge_step=epoch + 1))

    def _clip_order(self, epoch: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns the clips of an epoch and how many frames later each starts, None for clips as they were cut."""
        config, clips = self.run.config, self.clips
        order = batching.order_epoch(self.training, self.draws, seed=config.seed, epoch=epoch)
        if not config.random_crops:
            return order, None
        return order, random_crops.draw_offsets(
            order, clips.next_clip, clips.valid_frames, probability=config.random_crops, seed=config.seed, epoch=epoch
        )

    def _batches(self, epoch: int, first: int) -> Batches:
        """Yields this host's rows of the batches of an epoch, from batch number `first` on."""
        size = self.run.config.batch_size
        order, offsets = self._clip_order(epoch)
        remaining, offsets = order[first * size :], None if offsets is None else offsets[first * size :]
        if self.resident:
            for start in range(0, len(remaining), size):
                numbers = remaining[start : start + size]
                windows = {}
                if offsets is not None:
                    windows = {"offset": offsets[start : start + size], "next_clip": self.clips.next_clip[numbers]}
                padded = resident_clips.pad_numbers(numbers, self.run.padded_size, **windows)
                yield self.take_batch(self.resident, padded), len(numbers)
            return
        rows = self.run.rows
        with contextlib.closing(batching.read_batches(self.clips, remaining, size, rows=rows, offsets=offsets)) as batches:
            for number, batch in enumerate(batches):
                yield batch, min(size, len(remaining) - number * size)

    def _finish_epoch(self, epoch: int, result: EpochResult, sums: dict, scalars: dict) -> None:
        """Logs, validates and saves after `epoch` epochs, beside the steps of the next one; `sums` are of the last one."""
        run, state = self.run, result.state
        sums = jax.device_get(sums)
        if not is_finite(sums):
            return
        self.checkpoints.check_room(state)
        record = epoch_log.epoch_record(
            sums, state.params.get(task_balance.LOG_VARIANCES, {}), scalars, run.config,
            epoch=epoch, taken=result.steps, clips=result.clips, seconds=result.seconds,
        )  # fmt: skip
        if self.best is not None:
            counts = evaluation.accumulate_counts(
                run.eval_step, state, scalars, self.clips, self.held_out, run.config.batch_size, run.rows
            )
            record["validation"] = steps.epoch_figures(counts, reduction=run.config.reduction)
        self.records.append(record)
        if self.board is not None:
            epoch_log.write(self.workdir / workdir_config.LOG, self.records)
            self.board.add(record)
        if self.best is not None and (score := epoch_log.validation_score(record)) > self.best_score:
            self.best_score = score
            self._save(self.best, state, epoch)
            self.best.wait()  # before the run's own, which must not point to a best one that was never written
        last = result.stop or epoch == run.config.epochs
        if is_checkpoint_due(self.checkpoints, epoch, last=last, keep_every=run.config.keep_every):
            self._save(self.checkpoints, state, epoch)
        self.console.print(epoch_log.format_epoch(record), soft_wrap=True, highlight=False)

    def _save(self, checkpoints: Checkpoints, state: TrainState, epoch: int) -> None:
        checkpoints.save(state, {**self.metadata, "epoch": epoch})

    def _report_bad_batch(self, step: int, loss: np.ndarray) -> None:
        """Writes the clips of a step whose loss is not finite to `BAD_BATCH`, and raises an InputError."""
        config = self.run.config
        self.background.wait()
        epoch, number = divmod(step - 1, self.epoch_steps)
        of_batch = slice(number * config.batch_size, (number + 1) * config.batch_size)
        order, offsets = self._clip_order(epoch)
        batch, offsets = order[of_batch], None if offsets is None else offsets[of_batch]
        start_s = self.clips.clip_start_s[batch] + (0 if offsets is None else offsets * self.run.dataset.mel.hop_s)
        listed = [
            {"recording": str(self.clips.recording[clip]), "start_s": float(start),
             "log_mel": [float(log_mel.min()), float(log_mel.max())]}
            for clip, start, log_mel in zip(batch, start_s, self.clips.take(batch, offsets)["log_mel"], strict=True)
        ]  # fmt: skip
        file = self.workdir / BAD_BATCH
        if parallel.is_first_host():
            storage.atomic_write(file, json.dumps({"step": step, "loss": str(loss), "clips": listed}, indent=1))
        details = f"{loss}, with seed {config.seed} and alpha {config.alpha:g}; its clips are listed in {file}"
        raise nan_loss_error(step, self.epoch_steps, details, self.checkpoints.last_good())
