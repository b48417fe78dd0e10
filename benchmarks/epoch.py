"""Epochs of the training loop against their bare steps: what input, logs and checkpoints cost; clips on the device or streamed.

python -m benchmarks.epoch [--channels=128] [--batch_size=16] [--epochs=4] [--rounds=3]

Trains on soundscapes/quick, which is prepared first. Epochs and as many bare steps, on a batch that stays on the device, take
turns. `overhead` is the time of an epoch over that of its steps, less one. `benchmarks.host` measures it beside a device that
leaves the host alone.
"""

import pathlib
import statistics
import tempfile
import time

import tensorflow_datasets as tfds

from benchmarks import timing, workload
from benchmarks.accelerator.epoch_of_main import EpochTimes
from mfl_jax.data import prepare, prepared_dataset
from mfl_jax.training import loop, setup


class Streamed(prepared_dataset.Dataset):
    """A data set that is never held in memory, as one that is too large."""

    def read(self, split, *, min_clip_share=0.0):
        """Opens a split on the disk."""
        source = tfds.builder_from_directory(self.directory).as_data_source(split)
        return prepared_dataset.Clips(source, in_memory_bytes=0, min_clip_share=min_clip_share)


def measure(config, dataset: prepared_dataset.Dataset, epochs: int, rounds: int) -> dict:
    """Times epochs and bare steps in turns; the first epoch of a round, which may compile, does not count."""
    steps = -(-dataset.clips["development"] // config.batch_size)
    bare_step = workload.make_stepper(setup.build_run(config, dataset))
    float(bare_step())
    config.epochs = epochs + 1
    times = {"epoch": [], "steps": []}
    for _ in range(rounds):
        console = EpochTimes()
        with tempfile.TemporaryDirectory() as folder:
            loop.train(config, dataset, pathlib.Path(folder, "run"), console)
        times["epoch"].append((console.ends[-1] - console.ends[0]) / epochs)
        started = time.perf_counter()
        for _ in range(steps * epochs):
            loss = bare_step()
        float(loss)
        times["steps"].append((time.perf_counter() - started) / epochs)
    ratio = statistics.median(epoch / bare for epoch, bare in zip(times["epoch"], times["steps"], strict=True))
    return {
        "input": "streamed" if isinstance(dataset, Streamed) else "on the device", "clips": dataset.clips["development"],
        "batch_size": config.batch_size, "channels": config.channels,
        **{name: timing.spread(values) for name, values in times.items()}, "overhead": ratio - 1,
    }  # fmt: skip


def results(*, channels=128, batch_size=16, epochs=4, rounds=3, data_dir="data") -> list[dict]:
    """An entry a way to read the clips."""
    config = workload.make_config(dataset="soundscapes/quick", batch_size=batch_size, channels=channels, data_dir=data_dir)
    dataset = prepare.prepare_from_config(config)
    return [measure(config, kind(**vars(dataset)), epochs, rounds) for kind in (prepared_dataset.Dataset, Streamed)]


if __name__ == "__main__":
    timing.run(results, "grain")
