"""Training step of the paper's network against the same network in PyTorch.

python -m benchmarks.train_step [--batch_sizes=16,64] [--channels=128] [--variants=eager,compile,...] [--rounds=5]

Loss and gradients of the first step are compared before the timing. `ratio` is PyTorch's best time over ours.
"""

import jax
import numpy as np

from benchmarks import timing, workload
from mfl_jax.training import setup, steps


def ours(clips: int, channels: int):
    """A function that takes our next step, and the loss and gradients of the first."""
    config = workload.make_config(batch_size=clips, channels=channels)
    run = setup.build_run(config, workload.make_dataset())
    initial = run.initial

    @jax.jit
    def compute(params, batch_stats, feature_stats, batch):
        loss, gradients, _, _ = steps.loss_and_gradients(
            params, batch_stats, feature_stats, batch, run.scalars, graphdef=run.graphdef,
            reduction=config.reduction, threshold=config.threshold, axis_name=None,
        )  # fmt: skip
        return loss, gradients

    batch = workload.make_batch(run.dataset, clips)
    first = jax.device_get(compute(initial.params, initial.batch_stats, initial.feature_stats, batch))
    return workload.make_stepper(run), first


def theirs(clips: int, channels: int, variant: str):
    """As `ours`, for a variant of PyTorch."""
    from benchmarks import peer, peer_step

    config = workload.make_config(batch_size=clips, channels=channels)
    network, step = peer_step.training(*workload.arrays_for_torch(config, workload.make_dataset()), variant)

    def take_step():
        return step().item()  # waits for the device

    return take_step, (take_step(), peer.read_arrays(network, "gradients"))


def check(name: str, result: tuple, expected: tuple) -> None:
    """Raises AssertionError if loss or gradients differ.

    Gradients may differ by a percent, since either of two values that differ by rounding may be the maximum.
    """
    on_cpu = jax.devices()[0].platform == "cpu"  # on a GPU, PyTorch computes in bfloat16
    distances = jax.tree.map(lambda a, b: np.linalg.norm(a - b) / np.linalg.norm(b), result[1], expected[1])
    difference, loss_difference = max(jax.tree.leaves(distances)), abs(result[0] / expected[0] - 1)
    if not (loss_difference <= (1e-4 if on_cpu else 2e-2) and difference <= (2e-2 if on_cpu else 0.3)):
        raise AssertionError(f"{name}: the loss differs by {loss_difference:.2g}, and a gradient by {difference:.2g}")


def results(*, batch_sizes=(16, 64), channels=128, variants=(), rounds=5) -> list[dict]:
    """One entry per batch size."""
    return [workload.against_torch(ours, theirs, check, clips, channels, variants, rounds, passes=3) for clips in batch_sizes]


if __name__ == "__main__":
    timing.run(results, "torch")
