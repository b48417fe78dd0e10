"""Time of each part of the network, in a forward pass and in a training step.

python -m benchmarks.profile [--batch_size=16] [--channels=128] [--rounds=7]

Each part is compiled separately. `forward` uses the running batch statistics; `training` uses those of the batch and computes
gradients. `whole` is a complete forward pass, or a complete training step with its optimiser.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks import timing, workload
from mfl_jax.network import forward
from mfl_jax.network.joint_network import JointNetwork
from mfl_jax.training import setup


def _parts(network: JointNetwork, clips: int) -> dict:
    """name -> (module, call), where `call(module, x, **mode)` computes the part."""
    mask = jnp.ones((clips, workload.FRAMES), bool)

    def call_block(block, x, **mode):
        return block(x, mask, **mode)

    return {
        "conv1": (network.shared.conv1, call_block),
        "conv2": (network.shared.conv2, call_block),
        "conv3": (network.shared.conv3, call_block),
        "scene_head": (network.scene, lambda head, x, **mode: head(x, mask, dropout_keys=[None] * 2, **mode)),
        "event_head": (network.event, lambda head, x, **mode: head(x, mask)),
    }


def measure(clips: int, channels: int, rounds: int) -> list[dict]:
    """Times every part: one entry for `forward` and one for `training`."""
    config = workload.make_config(batch_size=clips, channels=channels)
    run = setup.build_run(config, workload.make_dataset())
    initial = run.initial
    batch = jax.device_put(workload.make_batch(run.dataset, clips))
    network = nnx.merge(run.graphdef, initial.params, initial.batch_stats)
    sides = {"forward": {}, "training": {}}
    x = batch["log_mel"]
    for name, (module, call) in _parts(network, clips).items():
        graphdef, params, rest = nnx.split(module, nnx.Param, ...)

        def value(params, x, graphdef=graphdef, rest=rest, call=call, train=False):
            return call(nnx.merge(graphdef, params, rest, copy=True), x, train=train, axis_name=None)

        def gradients(params, x, value=value, first=name == "conv1"):
            # The spectrogram needs no gradient.
            return jax.grad(lambda *args: value(*args, train=True).sum(), argnums=0 if first else (0, 1))(params, x)

        sides["forward"][name] = functools.partial(jax.jit(value), params, x)
        sides["training"][name] = functools.partial(jax.jit(gradients), params, x)
        if name.startswith("conv"):
            x = sides["forward"][name]()
    infer = jax.jit(functools.partial(forward.infer, graphdef=run.graphdef))
    sides["forward"]["whole"] = functools.partial(infer, initial.params, initial.batch_stats, initial.feature_stats, batch)
    # A second run, because a step overwrites its state.
    sides["training"]["whole"] = workload.make_stepper(setup.build_run(config, run.dataset))
    results = []
    for way, calls in sides.items():
        times = timing.alternate(calls, rounds)
        results.append({"way": way, "batch_size": clips, "channels": channels, **times})
    return results


def results(*, batch_size=16, channels=128, rounds=7) -> list[dict]:
    """Entries for a forward pass and for a training step."""
    return measure(batch_size, channels, rounds)


if __name__ == "__main__":
    timing.run(results)
