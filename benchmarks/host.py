"""Times the host's part of training: epochs of a run and of a group on a simulated accelerator.

python -m benchmarks.host [--step_ms=5] [--member_step_ms=3] [--members=10] [--epochs=40] [--rounds=5] [--channels=128]

The device takes each step in the given time without occupying the host, as an accelerator does. Everything else is real: clip
orders, batches, losses, logs, and checkpoints of the whole network. The group saves one after every epoch, the run as often as
training does (`epoch.CHECKPOINT_SHARE`). Copies between host and device cost what they do on a CPU. A batch has one clip, since
gathering a batch takes a CPU longer than an accelerator. `overhead` is the time of an epoch over that of its steps, less one.
Leave the machine alone meanwhile.
"""

import dataclasses
import pathlib
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import numpy as np

from benchmarks import timing
from benchmarks.accelerator import noise_clips
from benchmarks.accelerator.epoch_of_main import EpochTimes
from benchmarks.accelerator.setting import FULL
from mfl_jax.errors import InputError
from mfl_jax.training import epoch, loop, run_group, setup
from mfl_jax.training.splits import read_splits

STEPS = 16
"""Of an epoch: 1,004 clips in batches of 64."""


class _Loss:
    """The loss of a queued step. Reading it waits until the device has taken the step."""

    def __init__(self, value: np.ndarray, ready_s: float):
        self._value, self._ready_s = value, ready_s

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        time.sleep(max(self._ready_s - time.perf_counter(), 0))
        return self._value


class SimulatedDevice:
    """Takes the steps that it is given one after the other, each in the same time."""

    def __init__(self, step_s: float):
        self._step_s, self._busy_until_s = step_s, 0.0
        self._count = jax.jit(self._count_step, donate_argnums=0, keep_unused=True)  # handing over arguments takes time too

    @staticmethod
    def _count_step(state: Any, *_: Any) -> Any:
        return dataclasses.replace(state, step=state.step + 1, sums=jax.tree.map(lambda leaf: leaf + 1, state.sums))

    def step(self, state: Any, *arguments: Any) -> tuple[Any, _Loss]:
        """Queues a training step of a run or of a group, which counts the step and leaves the parameters as they are."""
        self._busy_until_s = max(self._busy_until_s, time.perf_counter()) + self._step_s
        loss = np.zeros(state.step.shape, np.float32)
        return self._count(state, *arguments), _Loss(loss, self._busy_until_s)


def time_run(config: Any, dataset: noise_clips.NoiseClips, device: SimulatedDevice, folder: pathlib.Path) -> float:
    """Trains a run; returns the mean time of its epochs after the first, in seconds."""
    times = EpochTimes()
    run = dataclasses.replace(setup.build_run(config, dataset), train_step=device.step)
    with mock.patch.object(loop, "build_run", lambda *_: run):
        loop.train(config, dataset, folder, times)
    return (times.ends[-1] - times.ends[0]) / (config.epochs - 1)


def time_group(configs: list, dataset: noise_clips.NoiseClips, device: SimulatedDevice, folder: pathlib.Path) -> float:
    """Trains a group; returns the mean time of its epochs after the first, in seconds."""
    members = [run_group.Member(f"seed_{config.seed}", "proposed", config, 0) for config in configs]
    reports: list[float] = []
    compile_steps = run_group.compile_group_steps
    with (
        mock.patch.object(run_group, "compile_group_steps", lambda *of: (device.step, compile_steps(*of)[1])),
        mock.patch.object(epoch, "CHECKPOINT_SHARE", float("inf")),  # a checkpoint after every epoch
    ):
        run_group.train_group(
            members, read_splits(dataset, configs[0].min_clip_share), folder, devices=jax.local_devices()[:1],
            stop=threading.Event(), advance=lambda _: reports.append(time.perf_counter()),
            lowest=lambda _: dict.fromkeys(configs[0].tasks),
        )  # fmt: skip
    ends = reports[STEPS::STEPS]  # the first report is of no step
    return (ends[-1] - ends[0]) / (configs[0].epochs - 1)


def measure(time_epoch: Callable[[SimulatedDevice, pathlib.Path], float], step_s: float, rounds: int) -> dict:
    """Times epochs several times; `overhead` is that of the median."""
    seconds = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            seconds.append(time_epoch(SimulatedDevice(step_s), pathlib.Path(folder, "run")))
    return {
        "epoch": timing.spread(seconds),
        "steps_s": STEPS * step_s,
        "overhead": statistics.median(seconds) / STEPS / step_s - 1,
    }


def results(*, step_ms=5, member_step_ms=3, members=10, epochs=40, rounds=5, channels=128) -> list[dict]:
    """An entry for a run, and one for a group."""
    if min(step_ms, member_step_ms, members, epochs, rounds, channels) < 1:
        raise InputError("all flags must be >= 1")
    setting = dataclasses.replace(FULL, batch_size=1, clips=STEPS, channels=channels)
    dataset = noise_clips.make(setting)
    configs = [setting.config(compute="float32", seed=seed, epochs=epochs + 1) for seed in range(members)]
    setup.configure_process(configs[0])
    group_step_s = member_step_ms * members / 1e3
    return [
        {"members": 1, **measure(lambda *of: time_run(configs[0], dataset, *of), step_ms / 1e3, rounds)},
        {"members": members, **measure(lambda *of: time_group(configs, dataset, *of), group_step_s, rounds)},
    ]


if __name__ == "__main__":
    timing.run(results)
