"""Epochs of the training loop against their bare steps: what input, logs and checkpoints cost; clips on the device or streamed.

python -m benchmarks.epoch [--channels=128] [--batch_size=16] [--epochs=4] [--rounds=3] [--step_ms=0]

Trains on soundscapes/quick, which is prepared first. Epochs and as many bare steps, on a batch that stays on the device, take
turns. `overhead` is the time of an epoch over that of its steps, less one. With `--step_ms=5` a step only waits for 5 ms, so that
the host works as beside a fast accelerator.
"""

import dataclasses
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


def waiting_run(config, dataset: prepared_dataset.Dataset, step_ms: int) -> setup.Run:
    """A run whose training step takes `step_ms` and computes nothing; with 0, the run of the config."""
    run = setup.build_run(config, dataset)

    def wait(_):
        time.sleep(step_ms / 1e3)
        return np.float32(0)

    def step(state, batch, scalars):
        loss = jax.pure_callback(wait, jax.ShapeDtypeStruct((), jnp.float32), state.step)
        sums = jax.tree.map(lambda leaf: leaf + 1, state.sums)
        return dataclasses.replace(state, step=state.step + 1, sums=sums), loss

    return dataclasses.replace(run, train_step=jax.jit(step, donate_argnums=0)) if step_ms else run


def measure(config, dataset: prepared_dataset.Dataset, epochs: int, rounds: int, step_ms: int = 0) -> dict:
    """Times epochs and bare steps in turns; the first epoch of a round, which may compile, does not count."""
    run = waiting_run(config, dataset, step_ms)
    steps = -(-dataset.clips["development"] // config.batch_size)
    bare_step = workload.make_stepper(run)
    float(bare_step())
    config.epochs = epochs + 1
    times = {"epoch": [], "steps": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder, open(pathlib.Path(folder, "log"), "w") as log:
            clock = Clock(log)
            with mock.patch.object(loop, "build_run", lambda config, dataset: waiting_run(config, dataset, step_ms)):
                loop.train(config, dataset, pathlib.Path(folder, "run"), clock)
        times["epoch"].append((clock.times[-1] - clock.times[0]) / epochs)
        started = time.perf_counter()
        for _ in range(steps * epochs):
            loss = bare_step()
        float(loss)
        times["steps"].append((time.perf_counter() - started) / epochs)
    ratio = statistics.median(epoch / bare for epoch, bare in zip(times["epoch"], times["steps"], strict=True))
    return {
        "input": "streamed" if isinstance(dataset, Streamed) else "on the device", "clips": dataset.clips["development"],
        "batch_size": config.batch_size, "channels": config.channels, "step_ms": step_ms,
        **{name: timing.spread(values) for name, values in times.items()}, "overhead": ratio - 1,
    }  # fmt: skip


def results(*, channels=128, batch_size=16, epochs=4, rounds=3, step_ms=0, data_dir="data") -> list[dict]:
    """An entry a way to read the clips."""
    config = workload.make_config(dataset="soundscapes/quick", batch_size=batch_size, channels=channels, data_dir=data_dir)
    dataset = prepare.prepare_from_config(config)
    return [measure(config, kind(**vars(dataset)), epochs, rounds, step_ms) for kind in (prepared_dataset.Dataset, Streamed)]


if __name__ == "__main__":
    timing.run(results, "grain")
