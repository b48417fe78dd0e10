"""The loop: data, step, log, checkpoint, resume."""

import contextlib
import dataclasses
import math
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.progress
import tensorboardX

from mfl_jax import balancing, data, evaluate, records, settings
from mfl_jax import step as steps
from mfl_jax.checkpoints import Checkpoints
from mfl_jax.data import Dataset
from mfl_jax.errors import InputError
from mfl_jax.interruption import stop_requests
from mfl_jax.run import about, build

KEPT_CHECKPOINTS = 2
"""The last one, and the one before it to fall back on."""


def split_numbers(clips: data.Clips, validation: str) -> tuple[np.ndarray, np.ndarray]:
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


def _progress(console: rich.console.Console) -> rich.progress.Progress:
    return rich.progress.Progress(
        "{task.description}", rich.progress.BarColumn(), rich.progress.MofNCompleteColumn(), "steps",
        rich.progress.TimeElapsedColumn(), rich.progress.TimeRemainingColumn(), "left", console=console,
    )  # fmt: skip


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
    console = console or rich.console.Console()
    settings.claim_workdir(workdir, config)
    run = build(config, dataset)
    clips = dataset.read("development")
    trained, held_out = split_numbers(clips, config.validation)
    epoch_steps = -(-len(trained) // config.batch_size)
    console.print(
        f"{config.name}: {len(trained)} clips to train on, {epoch_steps} steps an epoch; batch of {config.batch_size} on "
        f"{len(run.devices)} {run.devices[0].device_kind} device(s), {run.padded_size // len(run.devices)} on each"
    )
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(workdir / "checkpoints", keep=KEPT_CHECKPOINTS))
        best = stack.enter_context(Checkpoints(workdir / "best", keep=1)) if len(held_out) else None
        if (found := checkpoints.resume(run.initial)) is not None:
            state, before = found
            checkpoints.drop_after(int(state.step))
            if before["fingerprint"] != dataset.fingerprint:
                raise InputError(
                    f"{workdir} was trained on other data than {dataset.directory} holds now; name another --workdir"
                )
            console.print(f"resumes after step {int(state.step)} of {epoch_steps * config.epochs}")
        else:
            stats = data.feature_statistics(clips, trained)
            state = dataclasses.replace(run.initial, feature_stats=jax.tree.map(jnp.asarray, stats))
        described = about(config, dataset)
        taken = int(state.step)
        epoch = taken // epoch_steps
        if epoch >= config.epochs:
            console.print(f"training was complete before: {epoch} epochs")
            return True
        if best is not None:
            best.drop_after(taken)
        file = workdir / "metrics.jsonl"
        made = records.keep(file, epoch)
        board = stack.enter_context(
            contextlib.closing(tensorboardX.SummaryWriter(str(workdir / "tensorboard"), purge_step=epoch + 1))
        )
        bar = stack.enter_context(_progress(console))
        task = bar.add_task("training", total=epoch_steps * config.epochs, completed=taken)
        stop = stack.enter_context(stop_requests())
        best_score = max((records.validation_score(record) for record in made if "validation" in record), default=-math.inf)
        while epoch < config.epochs:
            started, clips_seen = time.perf_counter(), 0
            scalars = balancing.epoch_scalars(config.balance, run.scalars, made)
            order = data.epoch_order(trained, seed=config.seed, epoch=epoch)
            rest = order[taken % epoch_steps * config.batch_size :]
            with contextlib.closing(data.batches(clips, rest, config.batch_size, padded_size=run.padded_size)) as epoch_batches:
                for batch in epoch_batches:
                    state, _ = run.train_step(state, batch, scalars)
                    taken += 1
                    clips_seen += int(batch["clip_mask"].sum())
                    bar.update(task, completed=taken)
                    if stop.is_set() and taken % epoch_steps:
                        checkpoints.save(state, {**described, "epoch": epoch})
                        checkpoints.wait()
                        console.print(f"stopped after step {taken}; the same command goes on from there")
                        return False
            epoch += 1
            record = records.of_epoch(
                jax.device_get(state), scalars, config,
                epoch=epoch, taken=taken, clips=clips_seen, seconds=time.perf_counter() - started,
            )  # fmt: skip
            state = dataclasses.replace(state, sums=jax.tree.map(jnp.zeros_like, state.sums))
            if best is not None:
                sums = evaluate.add_up(run.eval_step, state, scalars, clips, held_out, config.batch_size, run.padded_size)
                record["validation"] = steps.epoch_figures(sums, reduction=config.reduction)
            made.append(record)
            records.append(file, record)
            for name, value in records.scalars(record):
                board.add_scalar(name, value, epoch)
            if best is not None and (score := records.validation_score(record)) > best_score:
                best_score = score
                best.save(state, {**described, "epoch": epoch})
                best.wait()  # before the run's own, so that none claims a best one that was never written
            checkpoints.save(state, {**described, "epoch": epoch})
            bar.update(task, description=f"epoch {epoch}/{config.epochs}")
            console.print(records.line(record), soft_wrap=True, highlight=False)
            if stop.is_set() and epoch < config.epochs:
                console.print(f"stopped after epoch {epoch}; the same command goes on from there")
                return False
    return True
