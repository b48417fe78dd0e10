"""Scores against minutes of training audio, on soundscapes that are prepared first.

python -m benchmarks.learning_curve [--recordings=2,4,8,18,36,72] [--seeds=2] [--steps=480] [--dataset=soundscapes/full]

Each entry is the mean over seeds of `proposed:quick` trained on that many recordings of each scene. Each seed draws other
recordings. All runs take the same number of steps, so small sets are seen more often. The scores are those of the whole
evaluation split, in percent.
"""

import io
import pathlib
import statistics
import sys
import tempfile
import time
from unittest import mock

import numpy as np
import rich.console

from benchmarks import timing
from mfl_jax.configs import proposed
from mfl_jax.data import prepare, prepared_dataset
from mfl_jax.scoring import evaluate_run
from mfl_jax.training import loop


def draw_clips(clips: prepared_dataset.Clips, per_scene: int, seed: int) -> np.ndarray:
    """The numbers of the clips of `per_scene` random recordings of each scene, int [shape=(n,)]."""
    rng = np.random.default_rng(seed)
    chosen: list[str] = []
    scenes = clips.arrays["scene"]
    for scene in np.unique(scenes):
        recordings = np.unique(clips.recording[scenes == scene])
        chosen += rng.choice(recordings, min(per_scene, len(recordings)), replace=False).tolist()
    return np.flatnonzero(np.isin(clips.recording, chosen))


def train(config, dataset: prepared_dataset.Dataset, clips: prepared_dataset.Clips, per_scene: int, steps: int) -> dict:
    """Trains and scores one run."""
    numbers = draw_clips(clips, per_scene, config.seed)
    config.epochs = -(-steps // -(-len(numbers) // config.batch_size))
    console, started = rich.console.Console(file=io.StringIO()), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        with mock.patch.object(loop, "split_development", lambda *_: (numbers, numbers[:0])):
            loop.train(config, dataset, pathlib.Path(folder), console)
        seconds = time.perf_counter() - started
        results = evaluate_run.evaluate_run(config, dataset, pathlib.Path(folder), console)
    frames = int(clips.arrays["valid_frames"][numbers].sum())
    scores = {f"{task}_{score}": results[task][score] for task in ("scene", "event") for score in ("micro_f", "macro_f")}
    return {"minutes": frames * dataset.mel.hop_samples / dataset.mel.sample_rate_hz / 60, "training_s": seconds} | scores


def results(*, recordings=(2, 4, 8, 18, 36, 72), seeds=2, steps=480, dataset="soundscapes/full", data_dir="data") -> list[dict]:
    """An entry per number of recordings of each scene."""
    config = proposed.get_config("quick")
    config.update({"dataset": dataset, "data_dir": data_dir})
    prepared = prepare.prepare_from_config(config)
    clips = prepared.read("development", min_clip_share=config.min_clip_share)
    entries = []
    for per_scene in recordings:
        runs = []
        for config.seed in range(seeds):
            runs.append(train(config, prepared, clips, per_scene, steps))
            print(per_scene, config.seed, runs[-1], file=sys.stderr, flush=True)
        means = {name: statistics.mean(run[name] for run in runs) for name in runs[0]}
        entries.append({"recordings_per_scene": per_scene, "seeds": seeds, "steps": steps, **means})
    return entries


if __name__ == "__main__":
    timing.run(results)
