"""How much of what the device can do a training step and a forward pass reach.

python -m benchmarks.roofline [--batch_sizes=16,64] [--channels=128] [--rounds=5]

The products of large float32 matrices and a copy of a large array are timed in the same process, in turns with the step.
`share_of_products` is the operations of the step (workload.forward_multiply_adds) in a second over those of the matrix product;
`share_of_bandwidth` the bytes that the compiler says the step touches in a second over those of the copy.
"""

import jax
import jax.numpy as jnp

from benchmarks import timing, workload
from mfl_jax.training import setup

SIZE = 4096
"""Rows and columns of the matrices: 137 GFLOP a product."""


def measure(clips: int, channels: int, rounds: int) -> dict:
    """Times the step, the product and the copy in turns."""
    config = workload.config_of(batch_size=clips, channels=channels)
    made = setup.build_run(config, workload.dataset_of())
    batch = workload.batch_of(made.dataset, clips)
    touched = made.train_step.lower(made.initial, batch, made.scalars).compile().cost_analysis()["bytes accessed"]
    matrix = jnp.ones((SIZE, SIZE), jnp.float32)
    product = jax.jit(jnp.matmul)
    copy = jax.jit(lambda x: x + 1)
    large = jnp.zeros(1 << 28, jnp.float32)
    times = timing.alternate(
        {
            "train_step": workload.stepper(made), "product": lambda: product(matrix, matrix),
            "copy": lambda: copy(large),
        },
        rounds,
    )  # fmt: skip
    operations = 6 * workload.forward_multiply_adds(config, clips)
    rates = {
        "train_step_gflop_per_s": operations / times["train_step"]["median_s"] / 1e9,
        "product_gflop_per_s": 2 * SIZE**3 / times["product"]["median_s"] / 1e9,
        "train_step_gb_per_s": touched / times["train_step"]["median_s"] / 1e9,
        "copy_gb_per_s": 2 * large.nbytes / times["copy"]["median_s"] / 1e9,
    }
    return {
        "batch_size": clips, "channels": channels, **times, **rates,
        "share_of_products": rates["train_step_gflop_per_s"] / rates["product_gflop_per_s"],
        "share_of_bandwidth": rates["train_step_gb_per_s"] / rates["copy_gb_per_s"],
    }  # fmt: skip


def results(*, batch_sizes=(16, 64), channels=128, rounds=5) -> list[dict]:
    """An entry a setting."""
    return [measure(clips, channels, rounds) for clips in batch_sizes]


if __name__ == "__main__":
    timing.run(results)
