"""Our training step, and our forward pass."""

import functools
import time
from collections.abc import Iterator

import jax

from benchmarks import workload
from benchmarks.accelerator import blocks
from benchmarks.accelerator.setting import Setting
from mfl_jax.network import forward as network_forward
from mfl_jax.training import setup


def measure(setting: Setting, *, compute: str, forward: bool = False) -> Iterator[dict]:
    """Times the training step, then with `forward` the forward pass; `compile_s` is that of the first call, which compiles."""
    config, dataset = setting.config(compute=compute), setting.dataset()
    step = workload.make_stepper(setup.build_run(config, dataset))
    started = time.perf_counter()
    first_loss = float(step())
    compile_s = time.perf_counter() - started
    times = blocks.measure(step, setting)
    yield {
        "piece": f"training_step_{compute}", **times,
        "compile_s": compile_s, "peak_gb": blocks.peak_gb(), "batch_size": config.batch_size, "first_loss": first_loss,
    }  # fmt: skip
    if not forward:
        return
    graphdef, initial = setup.initial_state(config, dataset)
    batch = jax.device_put(workload.make_batch(dataset, config.batch_size))
    network = jax.jit(functools.partial(network_forward.infer, graphdef=graphdef))
    call = functools.partial(network, initial.params, initial.batch_stats, initial.feature_stats, batch)
    started = time.perf_counter()
    jax.block_until_ready(call())
    compile_s = time.perf_counter() - started
    yield {"piece": f"forward_{compute}", **blocks.measure(call, setting), "compile_s": compile_s}
