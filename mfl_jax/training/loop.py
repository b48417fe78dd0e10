"""The loop: data, step, log, checkpoint, resume."""

import contextlib
import dataclasses
import json
import math
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.progress

from mfl_jax.data import batching, feature_statistics, prepared_dataset
from mfl_jax.data.prepared_dataset import Dataset
from mfl_jax.errors import InputError
from mfl_jax.runtime import history, parallel, storage, workdir_config, workdir_lock
from mfl_jax.runtime.progress import progress_bar
from mfl_jax.runtime.stop_signal import stop_requests
from mfl_jax.training import epoch_log, evaluation, steps, task_balance
from mfl_jax.training.checkpoints import Checkpoints, state_bytes
from mfl_jax.training.loss_watch import LossWatch, nan_loss_error
from mfl_jax.training.setup import build_run, checkpoint_metadata

KEPT_CHECKPOINTS = 2
"""The last one, and the one before it to fall back on."""
BAD_BATCH = "bad_batch.json"
"""The clips, and the range of their spectrograms, of a step whose loss was no number."""


def split_development(clips: prepared_dataset.Clips, validation: str) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the development clips to train on, and of those to validate on.

    Raises:
      InputError: a side of them is empty.
    """
    numbers = np.arange(len(clips))
    if validation == "none":
        trained, held_out = numbers, numbers[:0]
    else:
        held = clips.fold == int(validation.removeprefix("fold"))
        trained, held_out = numbers[~held], numbers[held]
        if not len(held_out):
            raise InputError(f"config.validation is {validation!r}, and no recording of the development split is in that fold")
    if not len(trained):
        raise InputError("there is no clip to train on")
    return trained, held_out


def train(config, dataset: Dataset, workdir: pathlib.Path, console: rich.console.Console | None = None) -> bool:
    """Trains to the end of the last epoch, from where the work directory stands.

    The order of the clips follows from the seed and the epoch, and all else from the state, so that a run that was stopped
    anywhere ends in the very bits of one that was not, on the same machine and devices.

    Args:
      config: as `configs/default.py` describes it. dataset: prepared.
      workdir: made and written: config.json, metrics.jsonl, checkpoints/, tensorboard/, and best/ with `validation`.
      console: to report to.

    Returns:
      Whether training is complete; False if it was asked to stop.

    Raises:
      InputError: the work directory belongs to another config or other data, or the loss is no longer a number.
    """
    first = parallel.is_first_host()
    console = console or rich.console.Console(quiet=not first)
    workdir_config.check_workdir(workdir, config)
    run = build_run(config, dataset)
    told = json.dumps([workdir_config.to_plain_dict(config), dataset.fingerprint], sort_keys=True)
    parallel.check_hosts_agree(told, "has another config or other data; give all the same command and the same data set as")
    clips = dataset.read("development")
    trained, held_out = split_development(clips, config.validation)
    epoch_steps = -(-len(trained) // config.batch_size)
    console.print(
        f"{config.name}: {len(trained)} clips to train on, {epoch_steps} steps an epoch; batch of {config.batch_size} on "
        f"{len(run.devices)} {run.devices[0].device_kind} device(s)"
        f"{f' of {parallel.host_count()} hosts' if parallel.host_count() > 1 else ''}, "
        f"{run.padded_size // len(run.devices)} on each",
        soft_wrap=True,
    )
    keep_every = config.keep_every * epoch_steps
    with contextlib.ExitStack() as stack:
        stack.enter_context(workdir_lock.lock_workdir(workdir))
        if first:
            workdir_config.claim_workdir(workdir, config)
        stop = stack.enter_context(stop_requests())
        shared = {"together": True, "owner": True}
        checkpoints = stack.enter_context(
            Checkpoints(workdir / "checkpoints", keep=KEPT_CHECKPOINTS, keep_every=keep_every, **shared)
        )
        best = stack.enter_context(Checkpoints(workdir / "best", keep=1, **shared)) if len(held_out) else None
        checkpoints.check_room(run.initial)
        kept = KEPT_CHECKPOINTS + bool(len(held_out)) + (config.epochs // config.keep_every if config.keep_every else 0)
        console.print(f"at most {kept} checkpoints are kept, of {state_bytes(run.initial) / 1e6:.1f} MB each", highlight=False)
        if (found := checkpoints.resume(run.initial)) is not None:
            state, before = found
            if before["fingerprint"] != dataset.fingerprint:
                raise InputError(
                    f"{workdir} was trained on other data than {dataset.directory} holds now; name another --workdir"
                )
            checkpoints.drop_after(int(state.step))
            console.print(f"resumes after step {int(state.step)} of {epoch_steps * config.epochs}")
        else:
            own = trained[jax.process_index() :: parallel.host_count()]
            stats = feature_statistics.compute_feature_statistics(clips, own, add=parallel.sum_over_hosts)
            state = dataclasses.replace(run.initial, feature_stats=jax.tree.map(jnp.asarray, stats))
        described = checkpoint_metadata(config, dataset)
        taken = int(state.step)
        epoch = taken // epoch_steps
        if epoch >= config.epochs:
            console.print(f"training was complete before: {epoch} epochs")
            return True
        if best is not None:
            best.drop_after(taken)
        if first:
            what = history.build_start_record(config, dataset.fingerprint, run.devices)
            history.append_start(workdir, {**what, "from_step": taken})
        file = workdir / "metrics.jsonl"
        made = epoch_log.read(file, epoch)
        board = stack.enter_context(epoch_log.TensorBoardWriter(workdir / "tensorboard", purge_step=epoch + 1)) if first else None
        bar = stack.enter_context(progress_bar("steps", console=console))
        task = bar.add_task("training", total=epoch_steps * config.epochs, completed=taken)
        agreement = parallel.StopVote()
        watch = LossWatch(_refuser(config, clips, trained, epoch_steps, workdir, checkpoints))
        best_score = max((epoch_log.validation_score(record) for record in made if "validation" in record), default=-math.inf)
        while epoch < config.epochs:
            started, clips_seen = time.perf_counter(), 0
            scalars = task_balance.epoch_scalars(config.balance, run.scalars, made)
            order = batching.shuffle_indices(trained, seed=config.seed, epoch=epoch)
            rest = order[taken % epoch_steps * config.batch_size :]
            with contextlib.closing(batching.read_batches(clips, rest, config.batch_size, rows=run.rows)) as epoch_batches:
                for batch in epoch_batches:
                    state, loss = run.train_step(state, batch, scalars)
                    taken += 1
                    clips_seen = min(clips_seen + config.batch_size, len(rest))
                    watch.add(taken, loss)
                    bar.update(task, completed=taken)
                    stopping = agreement.cast(stop.is_set())
                    if stopping and taken % epoch_steps:
                        watch.look_at_all()
                        checkpoints.save(state, {**described, "epoch": epoch})
                        checkpoints.wait()
                        console.print(f"stopped after step {taken}; the same command goes on from there")
                        return False
            epoch += 1
            watch.look_at_all()
            checkpoints.check_room(state)
            record = epoch_log.epoch_record(
                jax.device_get(state), scalars, config,
                epoch=epoch, taken=taken, clips=clips_seen, seconds=time.perf_counter() - started,
            )  # fmt: skip
            state = dataclasses.replace(state, sums=jax.tree.map(jnp.zeros_like, state.sums))
            if best is not None:
                sums = evaluation.accumulate_counts(run.eval_step, state, scalars, clips, held_out, config.batch_size, run.rows)
                record["validation"] = steps.epoch_figures(sums, reduction=config.reduction)
            made.append(record)
            if first:
                epoch_log.write(file, made)
                board.add(record)
            if best is not None and (score := epoch_log.validation_score(record)) > best_score:
                best_score = score
                best.save(state, {**described, "epoch": epoch})
                best.wait()  # before the run's own, so that none claims a best one that was never written
            checkpoints.save(state, {**described, "epoch": epoch})
            bar.update(task, description=f"epoch {epoch}/{config.epochs}")
            console.print(epoch_log.format_epoch(record), soft_wrap=True, highlight=False)
            if stopping and epoch < config.epochs:
                console.print(f"stopped after epoch {epoch}; the same command goes on from there")
                return False
        checkpoints.wait()
        taken_bytes = sum(one.bytes() for one in (checkpoints, best) if one is not None)
        console.print(f"the checkpoints take {taken_bytes / 1e6:.1f} MB", highlight=False)
    return True


def _refuser(config, clips, trained, epoch_steps, workdir, checkpoints):
    """What to say of a step whose loss is no number: `LossWatch` calls it."""

    def refuse(step, loss):
        epoch, number = divmod(step - 1, epoch_steps)
        order = batching.shuffle_indices(trained, seed=config.seed, epoch=epoch)
        batch = order[number * config.batch_size : (number + 1) * config.batch_size]
        log_mel = clips.take(batch)["log_mel"]
        listed = [
            {"recording": str(clips.recording[clip]), "start_s": float(clips.clip_start_s[clip]),
             "log_mel": [float(one.min()), float(one.max())]}
            for clip, one in zip(batch, log_mel, strict=True)
        ]  # fmt: skip
        if parallel.is_first_host():
            storage.atomic_write(workdir / BAD_BATCH, json.dumps({"step": step, "loss": str(loss), "clips": listed}, indent=1))
        what = f"{loss}, with seed {config.seed} and alpha {config.alpha:g}; its clips are listed in {workdir / BAD_BATCH}"
        raise nan_loss_error(step, epoch_steps, what, checkpoints)

    return refuse
