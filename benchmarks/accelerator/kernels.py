"""Device time of a training step by class of kernel, from a profile of a few steps."""

import collections
import pathlib
import tempfile
from collections.abc import Iterator

import jax

from benchmarks import workload
from benchmarks.accelerator import kernel_classes
from benchmarks.accelerator.setting import Setting
from mfl_jax.training import setup

SHOWN = 12
"""Kernels to name, those that take most."""


def measure(setting: Setting) -> Iterator[dict]:
    """Profiles steps in flight. Times are sums over the device's streams, or over the threads of a CPU, per step.

    `unnamed_share` is the share of kernels whose operation the profile does not name; their own names decide their class.
    """
    run = setup.build_run(setting.config(), setting.dataset())
    state, batch, scalars = jax.device_put(
        (run.initial, workload.make_batch(run.dataset, setting.batch_size), run.scalars), run.devices[0]
    )
    step = run.train_step.lower(state, batch, scalars).compile()
    state, loss = step(state, batch, scalars)
    jax.block_until_ready(loss)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(setting.steps):
                state, loss = step(state, batch, scalars)
            jax.block_until_ready(loss)
        (file,) = pathlib.Path(folder).rglob("*.xplane.pb")
        kernels = kernel_classes.read_kernels(jax.profiler.ProfileData.from_file(str(file)))
    operations = kernel_classes.classify_operations(step.as_text())
    ms_by_class: collections.Counter = collections.Counter(dict.fromkeys(kernel_classes.CLASSES, 0.0))
    ms_by_name: collections.Counter = collections.Counter()
    unnamed_ms = 0.0
    for kernel in kernels:
        kind, named = kernel_classes.classify_kernel(kernel, operations)
        if kind is not None:
            ms = kernel.nanoseconds / 1e6 / setting.steps
            ms_by_class[kind] += ms
            ms_by_name[kernel.name, kind] += ms
            unnamed_ms += 0 if named else ms
    total_ms = sum(ms_by_class.values())
    yield {
        "piece": "kernels", "ms": dict(ms_by_class), "share": {kind: ms / total_ms for kind, ms in ms_by_class.items()},
        "total_ms": total_ms, "unnamed_share": unnamed_ms / total_ms, "kernels_per_step": len(kernels) / setting.steps,
        "largest": [[name, kind, ms] for (name, kind), ms in ms_by_name.most_common(SHOWN)],
    }  # fmt: skip
