"""Counts over a split, and the results.json that they make."""

import json
import pathlib
from collections.abc import Callable, Mapping

import jax
import numpy as np

from mfl_jax import metrics
from mfl_jax.data.batching import read_batches
from mfl_jax.data.prepared_dataset import Clips, Dataset
from mfl_jax.runtime import history, parallel
from mfl_jax.runtime.storage import atomic_write


def accumulate_counts(
    step: Callable, state, scalars: Mapping, clips: Clips, numbers: np.ndarray, batch_size: int, rows: slice | None = None
) -> dict:
    """Adds up `step.batch_sums` over clips.

    Args:
      step: a compiled `step.eval_step`. state: a `TrainState`. scalars: of the loss.
      clips, numbers, batch_size, rows: as `data.batches` takes them.

    Returns:
      The sums, on the host; counts as 64-bit integers, so that they hold whatever the size of the split.
    """
    total = None
    for batch in read_batches(clips, numbers, batch_size, rows=rows):
        sums = jax.tree.map(_wide, jax.device_get(step(state, batch, scalars)))
        total = sums if total is None else jax.tree.map(np.add, total, sums)
    return total


def _wide(count):
    count = np.asarray(count)
    return count.astype(np.int64 if np.issubdtype(count.dtype, np.integer) else np.float64)


def score_counts(sums: Mapping) -> dict:
    """The `scene` and `event` parts of results.json, for the tasks that were counted."""
    made = {}
    if "scene" in sums:
        made["scene"] = metrics.scene_ratios(sums["scene"]["counts"])
    if "event" in sums:
        made["event"] = metrics.frame_ratios(sums["event"]["counts"])
    return made


def build_results(
    config, dataset: Dataset, sums: Mapping, lowest: Mapping, *, split: str, checkpoint: Mapping, devices: list
) -> dict:
    """Puts together what results.json holds.

    Args:
      config: of the run. dataset: its data. sums: of `accumulate_counts` over the split. lowest: its `floors`.
      split: name of what was scored. checkpoint: which it was. devices: that computed.
    """
    return {
        "system": config.name,
        "dataset": config.dataset,
        "split": split,
        "clips": int(sums["clips"]),
        **score_counts(sums),
        "floors": {task: lowest[task] for task in config.tasks},
        "counts": {
            task: {name: np.asarray(count).tolist() for name, count in sums[task]["counts"].items()} for task in config.tasks
        },
        "scenes": list(dataset.scenes),
        "events": list(dataset.events),
        "threshold": config.threshold,
        "checkpoint": dict(checkpoint),
        "seed": config.seed,
        "matmul_precision": config.matmul_precision,
        "device": devices[0].device_kind,
        "devices": len(devices),
        "fingerprint": dataset.fingerprint,
        "hosts": parallel.host_count(),
        "code": history.code_version(),
        "versions": history.package_versions(),
    }


def write_results(file: pathlib.Path, results: Mapping) -> None:
    """Writes results.json, whole or not at all."""
    atomic_write(file, json.dumps(results, indent=1) + "\n")
