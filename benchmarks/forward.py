"""Scores of a batch from its spectrograms, with the paper's network, against the same network in PyTorch.

python -m benchmarks.forward [--batch_sizes=16,64] [--channels=128] [--variants=eager,compile,...] [--rounds=7]

The logits are compared before anything is timed. `ratio` is PyTorch's best over ours.
"""

import functools
from collections.abc import Sequence

import jax
import numpy as np

from benchmarks import timing, workload
from mfl_jax import run, step


def measure(clips: int, channels: int, variants: Sequence[str], rounds: int) -> dict:
    """Checks that both sides compute the same, and times them."""
    from benchmarks import peer_step

    config = workload.config_of(batch_size=clips, channels=channels)
    made = run.build(config, workload.dataset_of())
    batch = workload.batch_of(made.dataset, clips)
    initial, on_device = jax.device_put((made.initial, batch))
    params, batch_stats = jax.device_get((initial.params, initial.batch_stats))
    network = jax.jit(functools.partial(step.apply_network, graphdef=made.graphdef, train=False))

    def ours():
        logits, _ = network(initial.params, initial.batch_stats, initial.feature_stats, on_device)
        return jax.device_get(logits)

    sides = {v: peer_step.forward(config, params, batch_stats, batch, v) for v in variants or peer_step.VARIANTS}
    expected = ours()
    for name, side in sides.items():
        for a, b in zip(expected, side(), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 if peer_step.device().type == "cpu" else 5e-2, err_msg=name)
    times = timing.alternate({"mfl_jax": ours, **{f"torch_{name}": side for name, side in sides.items()}}, rounds)
    best = min(times[f"torch_{name}"]["median_s"] for name in sides)
    operations = 2 * workload.forward_multiply_adds(config, clips)
    return {
        "batch_size": clips, "channels": channels, **times, "ratio": best / times["mfl_jax"]["median_s"],
        "gflop": operations / 1e9, "gflop_per_s": operations / 1e9 / times["mfl_jax"]["median_s"],
    }  # fmt: skip


def results(*, batch_sizes=(16, 64), channels=128, variants=(), rounds=7) -> list[dict]:
    """An entry a setting."""
    return [measure(clips, channels, variants, rounds) for clips in batch_sizes]


if __name__ == "__main__":
    timing.run(results, "torch")
