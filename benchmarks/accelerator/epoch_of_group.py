"""Several runs at once: a bare step of them, and an epoch of `mfl_jax.experiment`'s groups."""

import pathlib
import tempfile
import threading
import time
from collections.abc import Iterator

import jax

from benchmarks import workload
from benchmarks.accelerator import blocks, noise_clips, stand_ins
from benchmarks.accelerator.setting import Setting
from mfl_jax.runtime import parallel
from mfl_jax.training import run_group, setup
from mfl_jax.training.splits import read_splits


def measure(setting: Setting) -> Iterator[dict]:
    """Times the vmapped training step with its batches on the device, then the epochs of a group on the same device."""
    configs = [setting.config(seed=seed, epochs=setting.group_epochs + 1) for seed in range(setting.members)]
    setup.configure_process(configs[0])
    step, compile_s = _bare_step(setting, configs)
    bare = blocks.measure(step, setting)
    members = len(configs)
    yield {
        "piece": "members_at_once", "members": members, **bare, "ms_per_member": bare["ms"] / members,
        "compile_s": compile_s, "peak_gb": blocks.peak_gb(),
    }  # fmt: skip
    steps = -(-setting.clips // setting.batch_size)
    epoch_s, total_s = _train(setting, configs, steps)
    yield {
        "piece": "epoch_of_group", "members": members, "epoch_s": epoch_s, "ms_per_step": epoch_s / steps * 1e3,
        "bare_ms_per_step": bare["ms"], "overhead": epoch_s * 1e3 / (steps * bare["ms"]) - 1, "clips": setting.clips,
        "epochs": setting.group_epochs, "seconds_besides_epochs": total_s - epoch_s * setting.group_epochs,
        "stand_ins": stand_ins.installed(),
    }  # fmt: skip


def _bare_step(setting, configs):
    """Returns a function that takes the next step of all runs, and the seconds of the first one."""
    dataset = setting.dataset()
    starts = [setup.initial_state(config, dataset) for config in configs]
    train_step, _ = setup.bind_steps(setup.step_settings(configs[0], starts[0][0]))
    compiled = parallel.compile_members(train_step, (0, 0, 0), jax.local_devices()[:1], donate=True)
    states, batches, scalars = jax.device_put(
        [
            run_group.stack_trees([state for _, state in starts]),
            run_group.stack_trees([workload.make_batch(dataset, setting.batch_size, config.seed) for config in configs]),
            run_group.stack_trees([setup.step_scalars(config) for config in configs]),
        ]
    )

    def step():
        nonlocal states
        states, losses = compiled(states, batches, scalars)
        return losses

    started = time.perf_counter()
    jax.block_until_ready(step())
    return step, time.perf_counter() - started


def _train(setting, configs, steps) -> tuple[float, float]:
    """Trains and scores a group; returns the seconds of an epoch and those of all of it."""
    dataset = noise_clips.make(setting)
    splits = read_splits(dataset, configs[0].min_clip_share)
    members = [run_group.Member(f"seed_{config.seed}", "proposed", config, 0) for config in configs]
    reports: list[float] = []
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run_group.train_group(
            members, splits, pathlib.Path(folder), devices=jax.local_devices()[:1], stop=threading.Event(),
            advance=lambda _: reports.append(time.perf_counter()), lowest=lambda _: dict.fromkeys(configs[0].tasks),
        )  # fmt: skip
    ends = reports[steps::steps]  # the first report is of no step
    return (ends[-1] - ends[0]) / setting.group_epochs, time.perf_counter() - started
