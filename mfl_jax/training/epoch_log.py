"""metrics.jsonl: what is known of each epoch of a run, an object a line."""

import json
import pathlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence

from mfl_jax.runtime import storage
from mfl_jax.training import steps, task_balance


def read(file: pathlib.Path, epochs: int | None = None) -> list[dict]:
    """The records of a run, or of its first `epochs` epochs, up to a line that was not written out."""
    kept = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            break
        if epochs is None or record["epoch"] <= epochs:
            kept.append(record)
    return kept


def write(file: pathlib.Path, records: Sequence[Mapping]) -> None:
    """Writes all records of a run, whole or not at all: a store can't append, and a crash leaves no half line."""
    storage.atomic_write(file, "".join(json.dumps(record) + "\n" for record in records))


class TensorBoardWriter:
    """The records for TensorBoard; its files are copied from this machine after each epoch where the run is in a store."""

    def __init__(self, folder: pathlib.Path, purge_step: int):
        """Opens a new file in `folder`; `purge_step` is the first epoch that it will hold."""
        import tensorboardX  # late: it loads PyTorch where that is installed

        self._folder = folder
        self._local = tempfile.TemporaryDirectory() if storage.is_remote(folder) else None
        self._writer = tensorboardX.SummaryWriter(self._local.name if self._local else str(folder), purge_step=purge_step)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._writer.close()
        self._copy()
        if self._local:
            self._local.cleanup()

    def add(self, record: Mapping) -> None:
        """Adds an epoch."""
        for name, value in flatten_numbers(record):
            self._writer.add_scalar(name, value, record["epoch"])
        if self._local:
            self._writer.flush()
            self._copy()

    def _copy(self):
        for file in pathlib.Path(self._local.name).iterdir() if self._local else ():
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / file.name).write_bytes(file.read_bytes())


def epoch_record(state, scalars: Mapping, config, *, epoch: int, taken: int, clips: int, seconds: float) -> dict:
    """The record of an epoch.

    Args:
      state: a `TrainState` at its end, on the host. scalars: of its steps. config: of the run.
      epoch: its number, from 1. taken: steps taken since the first epoch. clips: seen in it, in `seconds`.
    """
    figures = steps.epoch_figures(state.sums, reduction=config.reduction)
    if weights := task_balance.current_weights(config.balance, scalars, state.params.get(task_balance.LOG_VARIANCES)):
        figures["balance"] = weights
    return {"epoch": epoch, "step": taken, "train": figures, "seconds": seconds, "clips_per_second": clips / seconds}


def format_epoch(record: Mapping) -> str:
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


def flatten_numbers(figures: Mapping, prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a record under flat names, `train/scene/micro_f`, as TensorBoard wants them."""
    for key, value in figures.items():
        if isinstance(value, Mapping):
            yield from flatten_numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float):
            yield prefix + key, value
