"""Accumulates counts over a split and builds results.json from them."""

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
from mfl_jax.training import score_histograms


def accumulate_counts(
    step: Callable, state, scalars: Mapping, clips: Clips, numbers: np.ndarray, batch_size: int, rows: slice | None = None
) -> dict:
    """Adds up `steps.batch_sums` over clips.

    Args:
      step: a compiled `steps.eval_step`.
      state: a `TrainState`.
      scalars: of the loss, as in `steps.eval_step`.
      clips, numbers, batch_size, rows: as in `batching.read_batches`.

    Returns:
      The sums, on the host, in int64 and float64 so that counts never overflow; and `by_clip`, the counts of each clip (see
      `steps.eval_step`), with a `number` of -1 for padding rows.
    """
    total: dict = {}
    by_clip = []
    for start, batch in zip(range(0, len(numbers), batch_size), read_batches(clips, numbers, batch_size, rows=rows), strict=True):
        of_rows = numbers[start : start + batch_size][rows or slice(None)]
        padding = (0, len(batch["clip_mask"]) - len(of_rows))
        batch = batch | {"number": np.pad(of_rows, padding, constant_values=-1).astype(np.int32)}
        sums = jax.tree.map(_widen, jax.device_get(step(state, batch, scalars)))
        by_clip.append(sums.pop("by_clip"))
        total = jax.tree.map(np.add, total, sums) if total else sums
    clip_axis = np.ndim(total["clips"])  # behind the axes of runs, if the step is of several
    return total | {"by_clip": jax.tree.map(lambda *parts: np.concatenate(parts, clip_axis), *by_clip)}


def _widen(count) -> np.ndarray:
    count = np.asarray(count)
    return count.astype(np.int64 if np.issubdtype(count.dtype, np.integer) else np.float64)


def score_counts(sums: Mapping) -> dict:
    """Computes `scene`, `event` and `event_probabilities` of results.json, for the tasks that were counted."""
    scores = {}
    if "scene" in sums:
        scores["scene"] = metrics.scene_ratios(sums["scene"]["counts"])
    if "event" in sums:
        scores["event"] = metrics.frame_ratios(sums["event"]["counts"])
        scores["event_probabilities"] = score_histograms.summarise_scores(sums["event"]["histogram"])
    return scores


def summarise_training(sums: Mapping) -> dict:
    """Computes `training` of results.json.

    Args:
      sums: from `accumulate_counts` over the clips that the run was trained on.
    """
    scores = score_counts(sums)
    summary: dict = {
        task: {name: scores[task][name] for name in ("micro_f", "macro_f")} for task in ("scene", "event") if task in scores
    }
    if "event" in scores:
        above = scores["event_probabilities"]["average_precision"]["mean_above_prevalence"]
        summary["event"]["average_precision_above_prevalence"] = above
    return summary | {"clips": int(sums["clips"])}


def build_results(
    config, dataset: Dataset, sums: Mapping, lowest: Mapping, *, split: str, checkpoint: Mapping, devices: list
) -> dict:
    """Builds the content of results.json.

    Args:
      config: of the run.
      dataset: that was scored.
      sums: from `accumulate_counts` over the split.
      lowest: floor scores of the split, from `floor_scores.prepare_floors`.
      split: its name.
      checkpoint: which one was scored: `which`, `step`, `epoch`.
      devices: that computed the scores.
    """
    return {
        "system": config.name,
        "dataset": config.dataset,
        "split": split,
        "clips": int(sums["clips"]),
        **{f"{task}_clips": int(sums[task]["clips"]) for task in ("scene", "event") if task in sums},
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
    """Writes results.json atomically."""
    atomic_write(file, json.dumps(results, indent=1) + "\n")
