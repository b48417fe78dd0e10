"""Forward pass of the paper's network against the same network in PyTorch.

python -m benchmarks.forward [--batch_sizes=16,64] [--channels=128] [--variants=eager,compile,...] [--rounds=7]

Logits are compared before the timing. `ratio` is PyTorch's best time over ours.
"""

import functools

import jax
import numpy as np

from benchmarks import timing, workload
from mfl_jax.network import forward
from mfl_jax.training import setup


def ours(clips: int, channels: int):
    """A function that computes our logits, and the logits."""
    run = setup.build_run(workload.make_config(batch_size=clips, channels=channels), workload.make_dataset())
    initial, batch = jax.device_put((run.initial, workload.make_batch(run.dataset, clips)))
    network = jax.jit(functools.partial(forward.infer, graphdef=run.graphdef))

    def compute():
        logits = network(initial.params, initial.batch_stats, initial.feature_stats, batch)
        return jax.device_get(logits)

    return compute, compute()


def theirs(clips: int, channels: int, variant: str):
    """As `ours`, for a variant of PyTorch."""
    from benchmarks import peer_step

    config = workload.make_config(batch_size=clips, channels=channels)
    network = peer_step.forward(*workload.arrays_for_torch(config, workload.make_dataset()), variant)

    def compute():
        return [logits.float().cpu().numpy() for logits in network()]

    return compute, compute()


def check(name: str, results: list, expected: tuple) -> None:
    """Raises AssertionError if the logits differ. On a GPU, PyTorch computes in bfloat16."""
    tolerance = 1e-4 if jax.devices()[0].platform == "cpu" else 5e-2
    for ours, other in zip(expected, results, strict=True):
        np.testing.assert_allclose(other, ours, rtol=0, atol=tolerance, err_msg=name)


def results(*, batch_sizes=(16, 64), channels=128, variants=(), rounds=7) -> list[dict]:
    """One entry per batch size."""
    return [workload.against_torch(ours, theirs, check, clips, channels, variants, rounds, passes=1) for clips in batch_sizes]


if __name__ == "__main__":
    timing.run(results, "torch")
