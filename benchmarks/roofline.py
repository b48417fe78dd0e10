"""Share of the device's arithmetic rate and memory bandwidth that a training step reaches.

python -m benchmarks.roofline [--batch_sizes=16,64] [--channels=128] [--rounds=5]

The product of two large float32 matrices and the copy of a large array are timed in the same process, in turns with the step.
`share_of_products` is the step's operations per second (`workload.forward_multiply_adds`) over those of the matrix product.
`share_of_bandwidth` is the step's bytes per second, as counted by the compiler, over those of the copy.
"""

import jax
import jax.numpy as jnp

from benchmarks import timing, workload
from mfl_jax.training import setup

SIZE = 4096
"""Rows and columns of the matrices; 137 GFLOP per product."""
COPIED = 1 << 28
"""Numbers that are copied: 1 GiB."""


def measure(clips: int, channels: int, rounds: int) -> dict:
    """Times the step, the product and the copy in turns."""
    config = workload.make_config(batch_size=clips, channels=channels)
    run = setup.build_run(config, workload.make_dataset())
    batch = workload.make_batch(run.dataset, clips)
    step_bytes = run.train_step.lower(run.initial, batch, run.scalars).compile().cost_analysis()["bytes accessed"]
    matrix = jnp.ones((SIZE, SIZE), jnp.float32)
    product = jax.jit(jnp.matmul)
    copy = jax.jit(lambda x: x + 1)
    large = jnp.zeros(COPIED, jnp.float32)
    times = timing.alternate(
        {
            "train_step": workload.make_stepper(run), "product": lambda: product(matrix, matrix),
            "copy": lambda: copy(large),
        },
        rounds,
    )  # fmt: skip
    operations = 6 * workload.forward_multiply_adds(config, clips)
    rates = {
        "train_step_gflop_per_s": operations / times["train_step"]["median_s"] / 1e9,
        "product_gflop_per_s": 2 * SIZE**3 / times["product"]["median_s"] / 1e9,
        "train_step_gb_per_s": step_bytes / times["train_step"]["median_s"] / 1e9,
        "copy_gb_per_s": 2 * large.nbytes / times["copy"]["median_s"] / 1e9,
    }
    return {
        "batch_size": clips, "channels": channels, **times, **rates,
        "share_of_products": rates["train_step_gflop_per_s"] / rates["product_gflop_per_s"],
        "share_of_bandwidth": rates["train_step_gb_per_s"] / rates["copy_gb_per_s"],
    }  # fmt: skip


def results(*, batch_sizes=(16, 64), channels=128, rounds=5) -> list[dict]:
    """One entry per batch size."""
    return [measure(clips, channels, rounds) for clips in batch_sizes]


if __name__ == "__main__":
    timing.run(results)
