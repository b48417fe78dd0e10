"""A training step of the paper's network against the same network in PyTorch.

python -m benchmarks.train_step [--batch_sizes=16,64] [--channels=128] [--variants=eager,compile,...] [--rounds=5]

Loss and gradients of the first step are compared before anything is timed. `ratio` is PyTorch's best over ours.
"""

import jax
import numpy as np

from benchmarks import timing, workload
from mfl_jax.training import setup, steps


def ours(clips: int, channels: int):
    """A call that takes our next step; loss and gradients of the first."""
    config = workload.config_of(batch_size=clips, channels=channels)
    made = setup.build_run(config, workload.dataset_of())
    initial = made.initial

    @jax.jit
    def compute(params, batch_stats, feature_stats, batch):
        loss, gradients, _, _ = steps.loss_and_gradients(
            params, batch_stats, feature_stats, batch, made.scalars, graphdef=made.graphdef,
            reduction=config.reduction, threshold=config.threshold, axis_name=None,
        )  # fmt: skip
        return loss, gradients

    batch = workload.batch_of(made.dataset, clips)
    first = jax.device_get(compute(initial.params, initial.batch_stats, initial.feature_stats, batch))
    return workload.stepper(made), first


def theirs(clips: int, channels: int, variant: str):
    """The same of PyTorch, in one of its variants."""
    from benchmarks import peer, peer_step

    network, take_step = peer_step.training(*workload.of_torch(clips, channels), variant)
    loss = take_step()
    gradients = peer.arrays_of(network.cpu(), "gradients")
    network.to(peer_step.device())
    return take_step, (loss, gradients)


def check(name: str, got: tuple, expected: tuple) -> None:
    """Refuses to time what does not compute the same.

    Where two values of a maximum are equal but for rounding, either may get its gradient: a leaf may differ by a percent.
    """
    on_cpu = jax.devices()[0].platform == "cpu"  # on an accelerator, PyTorch computes in bfloat16
    distances = jax.tree.map(lambda a, b: np.linalg.norm(a - b) / np.linalg.norm(b), got[1], expected[1])
    difference, loss_difference = max(jax.tree.leaves(distances)), abs(got[0] / expected[0] - 1)
    if not (loss_difference <= (1e-4 if on_cpu else 2e-2) and difference <= (2e-2 if on_cpu else 0.3)):
        raise AssertionError(f"{name}: the loss differs by {loss_difference:.2g}, and a gradient by {difference:.2g}")


def results(*, batch_sizes=(16, 64), channels=128, variants=(), rounds=5) -> list[dict]:
    """An entry a setting."""
    return [workload.against_torch(ours, theirs, check, clips, channels, variants, rounds, passes=3) for clips in batch_sizes]


if __name__ == "__main__":
    timing.run(results, "torch")
