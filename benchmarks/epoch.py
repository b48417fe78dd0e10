"""Epochs of the training loop against their bare steps: what input, logs and checkpoints cost; clips on the device or streamed.

python -m benchmarks.epoch [--channels=128] [--batch_size=16] [--epochs=4] [--rounds=3] [--step_ms=0]
    [--clips=0]

Trains on soundscapes/quick, which is prepared first. Epochs and as many bare steps, on a batch that stays on the device, take
turns. `overhead` is the time of an epoch over that of its steps, less one. With `--step_ms=5` a step only keeps one core busy for
5 ms, so that the host works beside it as beside a fast accelerator. Leave the other core free.
`--clips` trains on fewer clips than all.
"""

import dataclasses
import functools
import pathlib
import statistics
import tempfile
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import tensorflow_datasets as tfds

from benchmarks import timing, workload
from mfl_jax.data import prepare, prepared_dataset
from mfl_jax.training import loop, setup


class Streamed(prepared_dataset.Dataset):
    """A data set that is never held in memory, as one that is too large."""

    def read(self, split, *, min_clip_share=0.0):
        """Opens a split on the disk."""
        source = tfds.builder_from_directory(self.directory).as_data_source(split)
        return prepared_dataset.Clips(source, in_memory_bytes=0, min_clip_share=min_clip_share)


class Clock(rich.console.Console):
    """Notes when the line of each epoch is printed."""

    def __init__(self, file):
        super().__init__(file=file)
        self.times = []

    def print(self, *objects, **options):
        """Notes the time at the line of an epoch."""
        if objects and str(objects[0]).startswith("epoch "):
            self.times.append(time.perf_counter())


def busy_step(step_ms: int):
    """Compiles a training step that keeps one core busy for `step_ms` and leaves the parameters as they are."""

    def spin(turns, x):
        # JAX computes a program of under 1,000 operations in the thread that calls it, where it would hold up the host.
        return jax.lax.fori_loop(0, turns, lambda _, x: x * 0.999 + 0.5, jnp.full(2048, x))[0]

    compiled, trial = jax.jit(spin), 3_000
    compiled(1, 1.0).block_until_ready()
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        compiled(trial, 1.0).block_until_ready()
        seconds.append(time.perf_counter() - started)
    turns = round(trial * step_ms / 1e3 / min(seconds))

    def step(state, batch, scalars):
        loss = spin(turns, state.step.astype(jnp.float32))
        sums = jax.tree.map(lambda leaf: leaf + 1, state.sums)
        return dataclasses.replace(state, step=state.step + 1, sums=sums), loss

    return jax.jit(step, donate_argnums=0)


def run_with_step(train_step, config, dataset: prepared_dataset.Dataset) -> setup.Run:
    """The run of a config, with another training step unless it is None."""
    run = setup.build_run(config, dataset)
    return dataclasses.replace(run, train_step=train_step or run.train_step)


def measure(config, dataset: prepared_dataset.Dataset, clips: int, epochs: int, rounds: int, step_ms: int = 0) -> dict:
    """Times epochs and bare steps in turns; the first epoch of a round, which may compile, does not count."""
    run_of = functools.partial(run_with_step, busy_step(step_ms) if step_ms else None)
    run = run_of(config, dataset)
    steps = -(-clips // config.batch_size)
    numbers = np.arange(clips)
    bare_step = workload.make_stepper(run)
    float(bare_step())
    config.epochs = epochs + 1
    times = {"epoch": [], "steps": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder, open(pathlib.Path(folder, "log"), "w") as log:
            clock = Clock(log)
            with mock.patch.multiple(loop, build_run=run_of, split_development=lambda *_: (numbers, numbers[:0])):
                loop.train(config, dataset, pathlib.Path(folder, "run"), clock)
        times["epoch"].append((clock.times[-1] - clock.times[0]) / epochs)
        started = time.perf_counter()
        for _ in range(steps * epochs):
            loss = bare_step()
        float(loss)
        times["steps"].append((time.perf_counter() - started) / epochs)
    ratio = statistics.median(epoch / bare for epoch, bare in zip(times["epoch"], times["steps"], strict=True))
    return {
        "input": "streamed" if isinstance(dataset, Streamed) else "on the device", "clips": clips,
        "batch_size": config.batch_size, "channels": config.channels, "step_ms": step_ms,
        **{name: timing.spread(values) for name, values in times.items()}, "overhead": ratio - 1,
    }  # fmt: skip


def results(*, channels=128, batch_size=16, epochs=4, rounds=3, step_ms=0, clips=0, data_dir="data") -> list[dict]:
    """An entry a way to read the clips."""
    config = workload.make_config(dataset="soundscapes/quick", batch_size=batch_size, channels=channels, data_dir=data_dir)
    dataset = prepare.prepare_from_config(config)
    clips = clips or dataset.clips["development"]
    return [
        measure(config, kind(**vars(dataset)), clips, epochs, rounds, step_ms) for kind in (prepared_dataset.Dataset, Streamed)
    ]


if __name__ == "__main__":
    timing.run(results, "grain")
