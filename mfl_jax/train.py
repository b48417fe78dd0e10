"""The loop: data, step, log, checkpoint, resume."""

import contextlib
import dataclasses
import json
import math
import pathlib
import signal
import threading
import time
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.progress
import tensorboardX

from mfl_jax import data, evaluate, settings
from mfl_jax import step as steps
from mfl_jax.checkpoints import Checkpoints
from mfl_jax.data import Dataset
from mfl_jax.errors import InputError
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


@contextlib.contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """Turns the first SIGINT or SIGTERM into a request to stop after the step at hand; a second SIGINT interrupts at once."""
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested
        return

    def request(number, frame):
        del number, frame
        requested.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _keep_records(file: pathlib.Path, epochs: int) -> None:
    """Drops the records after the first `epochs` epochs, and a last line that was not written out."""
    kept = []
    for line in file.read_text().splitlines() if file.is_file() else ():
        try:
            record = json.loads(line)
        except ValueError:
            break
        if record["epoch"] <= epochs:
            kept.append(line + "\n")
    settings.write_whole(file, "".join(kept))


def _progress(console: rich.console.Console) -> rich.progress.Progress:
    return rich.progress.Progress(
        "{task.description}", rich.progress.BarColumn(), rich.progress.MofNCompleteColumn(), "steps",
        rich.progress.TimeElapsedColumn(), rich.progress.TimeRemainingColumn(), "left", console=console,
    )  # fmt: skip


def _line(record: Mapping) -> str:
    """An epoch in a line: its losses, its scores while training, and where the focal factors put the weight."""
    train = record["train"]
    parts = [f"epoch {record['epoch']}: loss {train['loss']:.4g}"]
    if "scene" in train:
        parts.append(f"scene micro F {train['scene']['micro_f']:.1f}, focal weight {train['scene']['focal_weight']:.3f}")
    if "event" in train:
        event = train["event"]
        weights = [
            f"{event[key]:.3f}" if event[key] is not None else "-" for key in ("focal_weight_active", "focal_weight_inactive")
        ]
        parts.append(f"event micro F {event['micro_f']:.1f}, focal weights {' active, '.join(weights)} inactive")
    if "validation" in record:
        parts.append(f"validation {validation_score(record):.1f}")
    return "; ".join([*parts, f"{record['clips_per_second']:.0f} clips/s"])


def _scalars(figures: Mapping, prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in figures.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}{key}/")
        elif isinstance(value, int | float):
            yield prefix + key, value


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
        records = workdir / "metrics.jsonl"
        _keep_records(records, epoch)
        board = stack.enter_context(
            contextlib.closing(tensorboardX.SummaryWriter(str(workdir / "tensorboard"), purge_step=epoch + 1))
        )
        bar = stack.enter_context(_progress(console))
        task = bar.add_task("training", total=epoch_steps * config.epochs, completed=taken)
        stop = stack.enter_context(_stop_requests())
        best_score = max(_validation_scores(records), default=-math.inf)
        while epoch < config.epochs:
            started, clips_seen = time.perf_counter(), 0
            order = data.epoch_order(trained, seed=config.seed, epoch=epoch)
            rest = order[taken % epoch_steps * config.batch_size :]
            with contextlib.closing(data.batches(clips, rest, config.batch_size, padded_size=run.padded_size)) as epoch_batches:
                for batch in epoch_batches:
                    state, _ = run.train_step(state, batch, run.weights)
                    taken += 1
                    clips_seen += int(batch["clip_mask"].sum())
                    bar.update(task, completed=taken)
                    if stop.is_set() and taken % epoch_steps:
                        checkpoints.save(state, {**described, "epoch": epoch})
                        checkpoints.wait()
                        console.print(f"stopped after step {taken}; the same command goes on from there")
                        return False
            epoch += 1
            figures = steps.epoch_figures(jax.device_get(state.sums), reduction=config.reduction)
            if figures["loss"] is None or not math.isfinite(figures["loss"]):
                raise InputError(
                    f"the loss of epoch {epoch} is {figures['loss']}; the last good checkpoint is that of step "
                    f"{(checkpoints.steps() or ['none'])[0]}; try a lower config.learning_rate"
                )
            seconds = time.perf_counter() - started
            record = {
                "epoch": epoch,
                "step": taken,
                "train": figures,
                "seconds": seconds,
                "clips_per_second": clips_seen / seconds,
            }
            state = dataclasses.replace(state, sums=jax.tree.map(jnp.zeros_like, state.sums))
            if best is not None:
                sums = evaluate.add_up(run.eval_step, state, run.weights, clips, held_out, config.batch_size, run.padded_size)
                record["validation"] = steps.epoch_figures(sums, reduction=config.reduction)
            with open(records, "a") as file:
                file.write(json.dumps(record) + "\n")
            for name, value in _scalars(record):
                board.add_scalar(name, value, epoch)
            if best is not None and (score := validation_score(record)) > best_score:
                best_score = score
                best.save(state, {**described, "epoch": epoch})
                best.wait()  # before the run's own, so that none claims a best one that was never written
            checkpoints.save(state, {**described, "epoch": epoch})
            bar.update(task, description=f"epoch {epoch}/{config.epochs}")
            console.print(_line(record), soft_wrap=True, highlight=False)
            if stop.is_set() and epoch < config.epochs:
                console.print(f"stopped after epoch {epoch}; the same command goes on from there")
                return False
    return True


def validation_score(record: Mapping) -> float:
    """What "best" means: the mean of the micro F of the tasks that are trained, in percent."""
    scores = [record["validation"][task]["micro_f"] for task in ("scene", "event") if task in record["validation"]]
    return sum(scores) / len(scores)


def _validation_scores(records: pathlib.Path) -> list[float]:
    made = map(json.loads, records.read_text().splitlines())
    return [validation_score(record) for record in made if "validation" in record]
