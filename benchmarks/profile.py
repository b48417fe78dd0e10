"""Where the time goes: the parts of the network alone, in a forward pass and in a training step.

python -m benchmarks.profile [--batch_size=16] [--channels=128] [--rounds=7]

Each part is compiled by itself, with the running batch statistics (`forward`), or with those of the batch and its gradients
(`training`). `whole` is a forward pass in one piece, and a training step with its optimiser.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks import timing, workload
from mfl_jax.network import forward, joint_network
from mfl_jax.training import setup


def _parts(network: joint_network.JointNetwork, clips: int) -> dict:
    """name -> (a part of the network, a function of it, its input and the mode)."""
    mask = jnp.ones(clips, bool)
    first, second, third = joint_network.FREQUENCY_POOLS

    def block(pool):
        return lambda block, x, **mode: block(x, mask, pool=pool, **mode)

    return {
        "conv1": (network.shared.conv1, block(first)),
        "conv2": (network.shared.conv2, block((1, second))),
        "conv3": (network.shared.conv3, block((1, third))),
        "scene_head": (network.scene, lambda head, x, **mode: head(x, mask, dropout_keys=[None] * 2, **mode)),
        "event_head": (network.event, lambda head, x, **mode: head(x)),
    }


def measure(clips: int, channels: int, rounds: int) -> list[dict]:
    """An entry a way, `forward` and `training`, in milliseconds a part."""
    config = workload.config_of(batch_size=clips, channels=channels)
    made = setup.build_run(config, workload.dataset_of())
    initial = made.initial
    batch = jax.device_put(workload.batch_of(made.dataset, clips))
    network = nnx.merge(made.graphdef, initial.params, initial.batch_stats)
    sides = {"forward": {}, "training": {}}
    x = batch["log_mel"]
    for name, (module, call) in _parts(network, clips).items():
        graphdef, params, rest = nnx.split(module, nnx.Param, ...)

        def value(params, x, graphdef=graphdef, rest=rest, call=call, train=False):
            return call(nnx.merge(graphdef, params, rest, copy=True), x, train=train, axis_name=None)

        def gradients(params, x, value=value, first=name == "conv1"):
            # The spectrogram itself needs no gradient.
            return jax.grad(lambda *a: value(*a, train=True).sum(), argnums=0 if first else (0, 1))(params, x)

        sides["forward"][name] = functools.partial(jax.jit(value), params, x)
        sides["training"][name] = functools.partial(jax.jit(gradients), params, x)
        if name.startswith("conv"):
            x = sides["forward"][name]()
    infer = jax.jit(functools.partial(forward.infer, graphdef=made.graphdef))
    sides["forward"]["whole"] = functools.partial(infer, initial.params, initial.batch_stats, initial.feature_stats, batch)
    # A run of its own, since a step overwrites its state.
    sides["training"]["whole"] = workload.stepper(setup.build_run(config, made.dataset))
    results = []
    for way, of_way in sides.items():
        times = timing.alternate(of_way, rounds)
        results.append({"way": way, "batch_size": clips, "channels": channels, **times})
    return results


def results(*, batch_size=16, channels=128, rounds=7) -> list[dict]:
    """Both ways."""
    return measure(batch_size, channels, rounds)


if __name__ == "__main__":
    timing.run(results)
