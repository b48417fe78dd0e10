"""metrics.jsonl: what is known of each epoch of a run, an object a line."""

import json
import math
import pathlib
from collections.abc import Iterator, Mapping

from mfl_jax import balancing, settings, step
from mfl_jax.errors import InputError


def keep(file: pathlib.Path, epochs: int) -> list[dict]:
    """Drops the records after the first `epochs` epochs, and a last line that was not written out; returns those kept."""
    kept = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            record = json.loads(line)
        except ValueError:
            break
        if record["epoch"] <= epochs:
            kept.append(record)
    settings.write_whole(file, "".join(json.dumps(record) + "\n" for record in kept))
    return kept


def append(file: pathlib.Path, record: Mapping) -> None:
    """Adds a line."""
    with open(file, "a") as lines:
        lines.write(json.dumps(record) + "\n")


def read(file: pathlib.Path) -> list[dict]:
    """The records of a run that is not being written to."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def of_epoch(state, scalars: Mapping, config, *, epoch: int, taken: int, clips: int, seconds: float) -> dict:
    """The record of an epoch.

    Args:
      state: a `TrainState` at its end, on the host. scalars: of its steps. config: of the run.
      epoch: its number, from 1. taken: steps taken since the first epoch. clips: seen in it, in `seconds`.

    Raises:
      InputError: the loss is no longer a number.
    """
    figures = step.epoch_figures(state.sums, reduction=config.reduction)
    if figures["loss"] is None or not math.isfinite(figures["loss"]):
        raise InputError(
            f"the loss of epoch {epoch} is {figures['loss']} (seed {config.seed}, alpha {config.alpha:g}); "
            "try a lower config.learning_rate"
        )
    if weights := balancing.weights_of(config.balance, scalars, state.params.get(step.LOG_VARIANCES)):
        figures["balance"] = weights
    return {"epoch": epoch, "step": taken, "train": figures, "seconds": seconds, "clips_per_second": clips / seconds}


def line(record: Mapping) -> str:
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
    if "balance" in train:
        parts.append(f"balance {train['balance']['scene']:.3g} scene, {train['balance']['event']:.3g} event")
    if "validation" in record:
        parts.append(f"validation {validation_score(record):.1f}")
    return "; ".join([*parts, f"{record['clips_per_second']:.0f} clips/s"])


def validation_score(record: Mapping) -> float:
    """What "best" means: the mean of the micro F of the tasks that are trained, in percent."""
    scores = [record["validation"][task]["micro_f"] for task in ("scene", "event") if task in record["validation"]]
    return sum(scores) / len(scores)


def scalars(figures: Mapping, prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a record under flat names, `train/scene/micro_f`, as TensorBoard wants them."""
    for key, value in figures.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{prefix}{key}/")
        elif isinstance(value, int | float):
            yield prefix + key, value
