"""An epoch of `mfl_jax.main` against its bare steps: what input, logs and checkpoints cost."""

import io
import pathlib
import tempfile
import time
from collections.abc import Iterator

import rich.console

from benchmarks import workload
from benchmarks.accelerator import blocks, noise_clips, stand_ins
from benchmarks.accelerator.setting import Setting
from mfl_jax.training import loop, setup


class EpochTimes(rich.console.Console):
    """Notes when the loop prints the line of an epoch."""

    def __init__(self):
        super().__init__(file=io.StringIO())
        self.ends: list[float] = []

    def print(self, *objects, **options):
        """Notes the time."""
        if objects and str(objects[0]).startswith("epoch "):
            self.ends.append(time.perf_counter())


def measure(setting: Setting) -> Iterator[dict]:
    """Times the bare step, then the epochs; `overhead` is the time of an epoch over that of its bare steps, less one."""
    config, dataset = setting.config(epochs=setting.epochs + 1), noise_clips.make(setting)
    bare = blocks.measure(workload.make_stepper(setup.build_run(config, dataset)), setting)
    console = EpochTimes()
    with tempfile.TemporaryDirectory() as folder:
        loop.train(config, dataset, pathlib.Path(folder, "run"), console)
    epoch_s = (console.ends[-1] - console.ends[0]) / setting.epochs
    steps = -(-setting.clips // config.batch_size)
    yield {
        "piece": "epoch_of_main", "epoch_s": epoch_s, "ms_per_step": epoch_s / steps * 1e3, "bare_ms_per_step": bare["ms"],
        "overhead": epoch_s * 1e3 / (steps * bare["ms"]) - 1, "clips": setting.clips, "clips_per_s": setting.clips / epoch_s,
        "epochs": setting.epochs, "stand_ins": stand_ins.installed(),
    }  # fmt: skip
