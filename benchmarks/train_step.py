"""A training step of the paper's network against the same network in PyTorch.

python -m benchmarks.train_step [--batch_sizes=16,64] [--channels=128] [--variants=eager,compile,...] [--rounds=5]

Loss and gradients of the first step are compared before anything is timed. `ratio` is PyTorch's best over ours.
"""

from collections.abc import Sequence

import jax
import numpy as np

from benchmarks import timing, workload
from mfl_jax import run, step


def largest_difference(ours, theirs) -> float:
    """Of two trees of arrays: the largest relative L2 distance of a leaf."""
    distances = jax.tree.map(lambda a, b: np.linalg.norm(a - b) / np.linalg.norm(b), jax.device_get(ours), theirs)
    return float(max(jax.tree.leaves(distances)))


def gradients_of(config, made: run.Run, batch: dict):
    """Loss and gradients of our first step."""
    initial = made.initial

    @jax.jit
    def compute(params, batch_stats, feature_stats, batch):
        loss, gradients, _, _ = step.loss_and_gradients(
            params, batch_stats, feature_stats, batch, made.scalars, graphdef=made.graphdef,
            reduction=config.reduction, threshold=config.threshold, axis_name=None,
        )  # fmt: skip
        return loss, gradients

    return compute(initial.params, initial.batch_stats, initial.feature_stats, batch)


def measure(clips: int, channels: int, variants: Sequence[str], rounds: int) -> dict:
    """Checks that both sides compute the same, and times them."""
    from benchmarks import peer_step
    from tests import peer

    config = workload.config_of(batch_size=clips, channels=channels)
    made = run.build(config, workload.dataset_of())
    batch = workload.batch_of(made.dataset, clips)
    params, batch_stats = jax.device_get((made.initial.params, made.initial.batch_stats))
    loss, gradients = gradients_of(config, made, batch)
    sides = {}
    for variant in variants or peer_step.VARIANTS:
        network, take_step = peer_step.training(config, params, batch_stats, batch, variant)
        their_loss = take_step()
        theirs = peer.arrays_of(network.cpu(), "gradients")
        network.to(peer_step.device())
        difference = largest_difference(gradients, theirs)
        tolerance = 5e-2 if peer_step.device().type == "cuda" else 2e-3  # float32 sums over millions of cells, or bfloat16
        if abs(their_loss / float(loss) - 1) > tolerance or difference > tolerance:
            raise AssertionError(f"{variant}: loss {their_loss} for {float(loss)}, gradients differ by {difference:.2g}")
        sides[f"torch_{variant}"] = take_step
    times = timing.alternate({"mfl_jax": workload.stepper(made), **sides}, rounds)
    best = min(times[name]["median_s"] for name in sides)
    operations = 6 * workload.forward_multiply_adds(config, clips)
    return {
        "batch_size": clips, "channels": channels, **times, "ratio": best / times["mfl_jax"]["median_s"],
        "gflop": operations / 1e9, "gflop_per_s": operations / 1e9 / times["mfl_jax"]["median_s"],
    }  # fmt: skip


def results(*, batch_sizes=(16, 64), channels=128, variants=(), rounds=5) -> list[dict]:
    """An entry a setting."""
    return [measure(clips, channels, variants, rounds) for clips in batch_sizes]


if __name__ == "__main__":
    timing.run(results, "torch")
