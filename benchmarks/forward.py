"""Logits of a batch from its spectrograms, with the paper's network, against the same network in PyTorch.

python -m benchmarks.forward [--batch_sizes=16,64] [--channels=128] [--variants=eager,compile,...] [--rounds=7]

The logits are compared before anything is timed. `ratio` is PyTorch's best over ours.
"""

import functools

import jax
import numpy as np

from benchmarks import timing, workload
from mfl_jax.network import forward
from mfl_jax.training import setup


def ours(clips: int, channels: int):
    """A call that computes our logits, and the logits."""
    made = setup.build_run(workload.config_of(batch_size=clips, channels=channels), workload.dataset_of())
    initial, batch = jax.device_put((made.initial, workload.batch_of(made.dataset, clips)))
    network = jax.jit(functools.partial(forward.infer, graphdef=made.graphdef))

    def compute():
        logits = network(initial.params, initial.batch_stats, initial.feature_stats, batch)
        return jax.device_get(logits)

    return compute, compute()


def theirs(clips: int, channels: int, variant: str):
    """The same of PyTorch, in one of its variants."""
    from benchmarks import peer_step

    compute = peer_step.forward(*workload.of_torch(clips, channels), variant)
    return compute, compute()


def check(name: str, got: list, expected: tuple) -> None:
    """Refuses to time what does not compute the same logits; on an accelerator, PyTorch computes in bfloat16."""
    tolerance = 1e-4 if jax.devices()[0].platform == "cpu" else 5e-2
    for ours, other in zip(expected, got, strict=True):
        np.testing.assert_allclose(other, ours, rtol=0, atol=tolerance, err_msg=name)


def results(*, batch_sizes=(16, 64), channels=128, variants=(), rounds=7) -> list[dict]:
    """An entry a setting."""
    return [workload.against_torch(ours, theirs, check, clips, channels, variants, rounds, passes=1) for clips in batch_sizes]


if __name__ == "__main__":
    timing.run(results, "torch")
