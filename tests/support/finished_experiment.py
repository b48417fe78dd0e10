"""Experiments as training leaves them, with random scores instead of trained networks."""

import pathlib

import jax
import numpy as np

from mfl_jax import metrics
from mfl_jax.data.batching import read_batches
from mfl_jax.data.prepared_dataset import Dataset
from mfl_jax.frame_mask import frame_mask
from mfl_jax.runtime import workdir_config
from mfl_jax.scoring import data_summary, floor_scores
from mfl_jax.training import epoch_log, evaluation, experiment_members, histogram_file, recording_counts, score_histograms
from mfl_jax.training.splits import read_splits
from support.small import small_config


def shrink_experiment(config, tmp: pathlib.Path, **fields):
    """Sets the fields of `small_config`, with plain losses and two seeds, in the config of an experiment."""
    for key, value in small_config(tmp, eta=0.0, gamma=0.0, zeta=0.0, epochs=2).to_dict().items():
        if key != "name":
            config[key] = value
    config.seeds = 2
    config.update(fields)
    return config


def write_finished_experiment(config, dataset: Dataset, home: pathlib.Path) -> pathlib.Path:
    """Writes configs, data.json, and for each run results.json and metrics.jsonl, with random answers."""
    splits = read_splits(dataset, config.min_clip_share)
    workdir_config.claim_workdir(home, config)
    data_summary.write_data_summary(dataset, splits.development, splits.evaluation, folds=config.folds, workdir=home)
    rng = np.random.default_rng(0)
    for member in experiment_members.expand_members(config):
        folder = home / "members" / member.name
        workdir_config.claim_workdir(folder, member.config)
        trained, clips, numbers, split = splits.numbers(member.fold)
        sums = _count_random_answers(clips, numbers, member.config, dataset, rng)
        recording_counts.write_counts(folder, recording_counts.count_recordings(sums["by_clip"], clips))
        if "event" in sums:
            histogram_file.write_histogram(folder, sums["event"]["histogram"], dataset.events)
        results = evaluation.build_results(
            member.config, dataset, sums,
            floor_scores.prepare_floors(dataset, clips, numbers)(sums["by_clip"]),
            split=split, checkpoint={"which": "last", "step": 10, "epoch": config.epochs}, devices=jax.devices()[:1],
        )  # fmt: skip
        training = _count_random_answers(splits.development, trained, member.config, dataset, np.random.default_rng(1))
        results["training"] = evaluation.summarise_training(training)
        epoch_log.write(folder / "metrics.jsonl", [_epoch_record(epoch, member.config, rng) for epoch in (1, 2)])
        evaluation.write_results(folder / "results.json", {**results, "member": member.name, "fold": member.fold})
    return home


def _count_random_answers(clips, numbers, config, dataset, rng) -> dict:
    """Sums as `evaluation.accumulate_counts` returns them; three of four frames are detected right."""
    (batch,) = read_batches(clips, numbers, len(numbers))
    sums = {"clips": len(numbers), "by_clip": {"number": numbers}}
    if "scene" in config.tasks:
        answers, classes = rng.integers(0, len(dataset.scenes), len(numbers)), len(dataset.scenes)
        counts = metrics.scene_counts(answers, batch["scene"], batch["scene_mask"], classes=classes)
        sums["scene"] = {"clips": batch["scene_mask"].sum(), "counts": counts}
        rows = np.eye(classes, dtype=int)[answers] * batch["scene_mask"][:, None]
        sums["by_clip"]["scene"] = {"true": batch["scene"], "predicted": answers, "answers": rows}
    if "event" in config.tasks:
        detected = batch["events"] ^ (rng.random(batch["events"].shape) < 0.25)
        valid = frame_mask(batch["valid_frames"], detected.shape[1]) & batch["event_mask"][:, None]
        by_clip = [metrics.frame_counts(*clip) for clip in zip(detected, batch["events"], valid, strict=True)]
        sums["by_clip"]["event"] = jax.tree.map(lambda *clips: np.stack(clips), *by_clip)
        sums["event"] = {
            "clips": batch["event_mask"].sum(),
            "counts": metrics.frame_counts(detected, batch["events"], valid),
            "histogram": score_histograms.count_scores(np.where(detected, 1.0, -1.0), batch["events"], valid),
        }
    return sums


def _epoch_record(epoch: int, config, rng) -> dict:
    """A record as `epoch_log.epoch_record` builds it."""

    def factor(focus):
        return 1.0 if focus == 0 else float(rng.uniform(0.1, 0.9))

    def scores():
        return {"loss": float(rng.uniform(0.1, 1)), "micro_f": float(rng.uniform(0, 100)), "macro_f": float(rng.uniform(0, 100))}

    train = {"loss": float(rng.uniform(0.1, 1))}
    if "scene" in config.tasks:
        train["scene"] = {**scores(), "focal_weight": factor(config.eta), "loss_multiplier": factor(config.eta)}
    if "event" in config.tasks:
        train["event"] = {**scores()} | {
            f"{kind}_{cells}": factor(focus)
            for kind in ("focal_weight", "loss_multiplier")
            for cells, focus in (("active", config.gamma), ("inactive", config.zeta))
        }
    return {"epoch": epoch, "step": 5 * epoch, "train": train, "seconds": 1.0, "clips_per_second": 24.0}
