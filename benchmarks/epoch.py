"""A whole epoch of the training loop against its bare steps: what input, logs and checkpoints cost; held in memory or streamed.

python -m benchmarks.epoch [--channels=128] [--batch_size=16] [--epochs=4]

Trains on soundscapes/quick, which is prepared first. After each epoch as many bare steps are timed, on a batch that stays on the
device. `overhead` is the time of an epoch over that of its steps, less one.
"""

import pathlib
import tempfile
import time

import rich.console
import tensorflow_datasets as tfds

from benchmarks import timing, workload
from mfl_jax.data import prepare, prepared_dataset
from mfl_jax.training import loop, setup


class Streamed(prepared_dataset.Dataset):
    """A data set that is never held in memory, as one that is too large."""

    def read(self, split):
        """Opens a split on the disk."""
        return prepared_dataset.Clips(tfds.builder_from_directory(self.directory).as_data_source(split), in_memory_bytes=0)


class Clock(rich.console.Console):
    """Times the loop from one line that it prints about an epoch to the next, and calls `between` in the pauses."""

    def __init__(self, file, between):
        super().__init__(file=file)
        self.between, self.times, self.started = between, [], None

    def print(self, *objects, **options):
        """Notes the time at the line of an epoch."""
        if objects and str(objects[0]).startswith("epoch "):
            if self.started is not None:
                self.times.append(time.perf_counter() - self.started)
            self.between()
            self.started = time.perf_counter()


def measure(config, dataset: prepared_dataset.Dataset, epochs: int) -> dict:
    """Trains for `epochs` epochs and one more before them, which compiles."""
    made = setup.build_run(config, dataset)
    steps = -(-dataset.clips["development"] // config.batch_size)
    bare_step = workload.make_stepper(made)
    float(bare_step())
    bare = []

    def bare_steps():
        started = time.perf_counter()
        for _ in range(steps):
            loss = bare_step()
        float(loss)
        bare.append(time.perf_counter() - started)

    config.epochs = epochs + 1
    with tempfile.TemporaryDirectory() as folder, open(pathlib.Path(folder, "log"), "w") as log:
        clock = Clock(log, bare_steps)
        loop.train(config, dataset, pathlib.Path(folder, "run"), clock)
    times = {"epoch": timing.spread(clock.times), "steps": timing.spread(bare[1:])}
    ratios = sorted(epoch / steps for epoch, steps in zip(clock.times, bare[1:], strict=True))
    return {
        "input": "streamed" if isinstance(dataset, Streamed) else "in memory", "clips": dataset.clips["development"],
        "batch_size": config.batch_size, "channels": config.channels, **times, "overhead": ratios[len(ratios) // 2] - 1,
    }  # fmt: skip


def results(*, channels=128, batch_size=16, epochs=4, data_dir="data") -> list[dict]:
    """An entry a way to read the clips."""
    config = workload.make_config(dataset="soundscapes/quick", batch_size=batch_size, channels=channels, data_dir=data_dir)
    dataset = prepare.prepare_from_config(config)
    return [measure(config, kind(**vars(dataset)), epochs) for kind in (prepared_dataset.Dataset, Streamed)]


if __name__ == "__main__":
    timing.run(results, "grain")
