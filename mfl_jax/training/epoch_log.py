"""The log of a run: metrics.jsonl with one JSON object per epoch, its copy for TensorBoard, and the line printed per epoch."""

import json
import pathlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence

from mfl_jax.runtime import storage
from mfl_jax.training import steps, task_balance


def read(file: pathlib.Path, epochs: int | None = None) -> list[dict]:
    """Reads the records of a run, or of its first `epochs` epochs; stops at a line that was cut off."""
    records = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            break
        if epochs is None or record["epoch"] <= epochs:
            records.append(record)
    return records


def write(file: pathlib.Path, records: Sequence[Mapping]) -> None:
    """Writes all records of a run atomically: an object store can't append, and a crash leaves no half line."""
    storage.atomic_write(file, "".join(json.dumps(record) + "\n" for record in records))


class TensorBoardWriter:
    """Writes records for TensorBoard; for a run in an object store, to local files that are copied there after each epoch."""

    def __init__(self, folder: pathlib.Path, purge_step: int):
        """Opens a new file.

        Args:
          folder: of the TensorBoard files, local or in an object store.
          purge_step: first epoch that it will hold; TensorBoard drops that epoch and later ones from older files.
        """
        import tensorboardX  # imported late: it loads PyTorch if that is installed

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

    def _copy(self) -> None:
        for file in pathlib.Path(self._local.name).iterdir() if self._local else ():
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / file.name).write_bytes(file.read_bytes())


def epoch_record(
    sums: dict, log_variances: Mapping, scalars: Mapping, config, *, epoch: int, taken: int, clips: int, seconds: float
) -> dict:
    """Builds the record of an epoch.

    Args:
      sums: of the epoch, on the host.
      log_variances: learned by uncertainty weighting, at its end; empty without it.
      scalars: of its steps.
      config: of the run.
      epoch: its number, from 1.
      taken: steps taken since the first epoch.
      clips: clips seen in `seconds`.
      seconds: spent on its steps.
    """
    figures = steps.epoch_figures(sums, reduction=config.reduction)
    if weights := task_balance.current_weights(config.balance, scalars, log_variances):
        figures["balance"] = weights
    return {"epoch": epoch, "step": taken, "train": figures, "seconds": seconds, "clips_per_second": clips / seconds}


def format_epoch(record: Mapping) -> str:
    """Formats an epoch as one line: loss, training scores, focal weights, validation score and speed."""
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
    parts += [f"{name} {value:.4g}" for name, value in train.get("loss_terms", {}).items() if value is not None]
    if "balance" in train:
        parts.append(f"balance {train['balance']['scene']:.3g} scene, {train['balance']['event']:.3g} event")
    if "validation" in record:
        parts.append(f"validation {validation_score(record):.1f}")
    return "; ".join([*parts, f"{record['clips_per_second']:.0f} clips/s"])


def validation_score(record: Mapping) -> float:
    """Computes the score that decides which checkpoint is best: the mean micro F of the trained tasks, in percent.

    A task that no clip is annotated for is left out.
    """
    figures = [record["validation"][task] for task in ("scene", "event") if task in record["validation"]]
    scores = [task["micro_f"] for task in figures if task["loss"] is not None]
    return sum(scores) / len(scores)


def flatten_numbers(figures: Mapping, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yields the numbers of a record under flat names such as `train/scene/micro_f`, for TensorBoard."""
    for key, value in figures.items():
        if isinstance(value, Mapping):
            yield from flatten_numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float):
            yield prefix + key, value
